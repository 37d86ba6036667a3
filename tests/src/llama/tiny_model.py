"""Makes a language model of a few hundred kilobytes, and serves it as llama.cpp does.

    tiny_model.py FILE [--serve --port PORT --key KEY --name NAME]

It is a model for llama.cpp in every respect: a tokeniser that takes any text, a chat template with tools,
attention, a context of 32k. Its weights are random and small but for one thing: each word of ANSWER makes
the next one likely. So whatever it is asked, it says ANSWER, by real inference. The same bytes come out
each time: the tests compare them.
"""

import argparse
import json
import signal
import sys

import gguf
import numpy

ANSWER = ["pong", "▁from", "▁a", "▁tiny", "▁model", "，", "你", "好", "。"]
CONTEXT = 32768
WIDTH, HEADS, LAYERS, INNER = 64, 2, 1, 64

CONTROL = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]

TEMPLATE = """{%- if tools %}<|system|>You may call tools, as <tool_call>{"name": "NAME", "arguments": {}}</tool_call>.
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
{% endif %}
{%- for message in messages %}<|{{ message.role }}|>{{ message.content or "" }}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
<tool_call>{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}
{%- endif %}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def vocabulary():
    """Pieces as (text, score, kind): bytes for what nothing else holds, letters, pairs of letters."""
    kinds = gguf.TokenType
    pieces = [("<unk>", 0.0, kinds.UNKNOWN)]
    pieces += [(text, 0.0, kinds.CONTROL) for text in CONTROL]
    pieces += [(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256)]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pairs = [first + second for first in ["▁", *letters] for second in letters]
    plain = ["▁"] + [chr(code) for code in range(33, 127)]
    # A longer piece has the better score, so that it is taken.
    pieces += [(text, -1000.0, kinds.NORMAL) for text in plain]
    pieces += [(text, -100.0 - at / 100, kinds.NORMAL) for at, text in enumerate(pairs)]
    known = {text for text, _, _ in pieces}
    pieces += [(text, -2000.0, kinds.NORMAL) for text in ANSWER if text not in known]
    return pieces


def weights(pieces):
    """Tensors by name."""
    random = numpy.random.Generator(numpy.random.PCG64(7))

    def small(*shape):
        return (random.standard_normal(shape) * 0.02).astype(numpy.float32)

    number = {text: at for at, (text, _, _) in enumerate(pieces)}
    chain = [number[text] for text in ["<|assistant|>", *ANSWER, "</s>"]]
    embedding, output = small(len(pieces), WIDTH), small(len(pieces), WIDTH)
    for place, (now, following) in enumerate(zip(chain, chain[1:])):
        embedding[now] = 0
        embedding[now, place] = 1
        output[following, place] = 8
    tensors = {"token_embd.weight": embedding, "output.weight": output}
    ones = numpy.ones(WIDTH, dtype=numpy.float32)
    tensors["output_norm.weight"] = ones
    for layer in range(LAYERS):
        for name, shape in {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, WIDTH),
            "attn_v": (WIDTH, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }.items():
            tensors[f"blk.{layer}.{name}.weight"] = small(*shape)
        tensors[f"blk.{layer}.attn_norm.weight"] = ones
        tensors[f"blk.{layer}.ffn_norm.weight"] = ones
    return tensors


def make(path):
    pieces = vocabulary()
    number = {text: at for at, (text, _, _) in enumerate(pieces)}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in pieces])
    writer.add_token_scores([score for _, score, _ in pieces])
    writer.add_token_types([kind for _, _, kind in pieces])
    writer.add_bos_token_id(number["<s>"])
    writer.add_eos_token_id(number["</s>"])
    writer.add_unk_token_id(number["<unk>"])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in weights(pieces).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path, port, key, name):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.model_alias = {name}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.api_keys = [key]
    parameters.n_ctx = CONTEXT
    parameters.n_parallel = 2
    parameters.kv_unified = True
    parameters.use_jinja = True
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    # The form in which the native host says it.
    print(json.dumps({"event": "listening", "address": server.listening_address.split("//")[-1]}), flush=True)
    signal.pause()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("file")
    arguments.add_argument("--serve", action="store_true")
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--key", default="")
    arguments.add_argument("--name", default="tiny")
    given = arguments.parse_args()
    make(given.file)
    if given.serve:
        serve(given.file, given.port, given.key, given.name)


if __name__ == "__main__":
    sys.exit(main())
