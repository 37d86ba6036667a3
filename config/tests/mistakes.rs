//! What is said about each mistake, word for word: these lines are what an operator works with.

use minigate_config::{Source, check};

fn lines(texts: &[(&str, &str)]) -> String {
    let source = |(name, text): &(&str, &str)| Source { name: (*name).into(), text: (*text).into() };
    let checked = check(&texts.iter().map(source).collect::<Vec<_>>(), None);
    checked.diagnostics.iter().map(|found| format!("{found}\n")).collect()
}

/// The first line, without the help.
#[track_caller]
fn first(yaml: &str, expected: &str) {
    let all = lines(&[("a.yaml", yaml)]);
    assert_eq!(all.lines().next(), Some(expected), "all:\n{all}in\n{yaml}");
}

/// A file with one profile of these lines, the first of which is line 4.
fn profile(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("models: {{fast: {{kind: openclaw}}}}\nprofiles:\n  p:\n{lines}")
}

#[test]
fn everything_is_said_at_once() {
    let yaml = "\
profile: {}
profiles:
  a:
    modle: fast
    max_tokens: many
    temperature: 3
  b:
    model: fast
    fallback: bb
    memory: gatway
routing:
  qa: a
  complex: c
environments:
  production: {}
";
    let expected = "\
a.yaml:1:1: error: unknown key `profile`
  help: did you mean `profiles`? the valid keys are profiles, routing, models, limits, environments, channels, notify, roles, schemas, tools, turns, audit and 2 more
a.yaml:3:3: error: profile `a` has no model
  help: give it `model: ALIAS`, or all profiles `routing: {defaults: {model: ALIAS}}`
a.yaml:4:5: error: unknown key `modle`
  help: did you mean `model`? the valid keys are model, system_prompt, prompt, input, max_tokens, temperature, timeout_ms, fallback, draft, memory, cache, sync_deadline_ms and 11 more
a.yaml:5:17: error: `max_tokens` is `many`; it must be a whole number from 1 to 1000000
a.yaml:6:18: error: `temperature` is the number 3; it must be a number from 0 to 2
a.yaml:8:12: warning: `fast` is not under `models`: the default agent's own model answers
  help: say under `models` what it stands for
a.yaml:9:15: error: there is no profile `bb`
  help: did you mean `b`? the profiles are a, b
a.yaml:10:13: error: `memory` is `gatway`; it must be one of client, gateway
  help: did you mean `gateway`?
a.yaml:13:12: error: there is no profile `c`
  help: did you mean `a`? the profiles are a, b
a.yaml:15:3: error: `production` is no valid name
  help: the valid names are dev, staging, prod
";
    assert_eq!(lines(&[("a.yaml", yaml)]), expected);
}

#[test]
fn profiles() {
    let cases = [
        (
            "model: 5",
            "a.yaml:4:12: error: `model` is the number 5; it must be a name of at most 64 letters, digits, `_`, `-`, `.`, `/` and `:`",
        ),
        (
            "model: fast\nsystem_prompt: [a]",
            "a.yaml:5:20: error: `system_prompt` is a list; it must be a text",
        ),
        (
            "model: fast\nmax_tokens: 0",
            "a.yaml:5:17: error: `max_tokens` is the number 0; it must be a whole number from 1 to 1000000",
        ),
        (
            "model: fast\nmax_tokens:",
            "a.yaml:5:15: error: `max_tokens` is nothing; it must be a whole number from 1 to 1000000",
        ),
        ("model: fast\nmodel: strong", "a.yaml:5:5: error: `model` is given twice"),
        ("model: fast\nredact: yes", "a.yaml:5:13: error: `redact` is `yes`; it must be `true` or `false`"),
        (
            "model: fast\ncache: 60",
            "a.yaml:5:12: error: `cache` is the number 60; it must be a time with its unit, as 90s, 10m, 1h or 2d, from 1s to 2592000s, or a mapping",
        ),
        ("model: fast\ncache: {shared: true}", "a.yaml:5:12: error: `cache` has no `ttl`"),
        (
            "model: fast\ncache: {ttl: 1h, shared: true}\nmemory: gateway",
            "a.yaml:5:12: error: answers out of a conversation cannot be shared between people",
        ),
        ("model: fast\ntools: [search]", "a.yaml:5:13: error: there is no tool `search`"),
        (
            "model: fast\ntools: [Search]",
            "a.yaml:5:13: error: `tools[0]` is `Search`; it must be a tool's name: at most 64 small letters, digits and `_`",
        ),
        (
            "model: fast\nmax_tool_calls: 4",
            "a.yaml:5:21: error: `max_tool_calls` means nothing for a profile without `tools`",
        ),
        (
            "model: fast\nprompt: '{{txt}}'",
            "a.yaml:5:13: error: the template names `txt`, and no field has that name",
        ),
        ("model: fast\nprompt: 'a {{text'", "a.yaml:5:13: error: `{{` without `}}`"),
        (
            "model: fast\nprompt: 'Hello'",
            "a.yaml:5:13: warning: the template leaves out what the person wrote",
        ),
        (
            "model: fast\ninput: {text: string}",
            "a.yaml:5:19: error: `text` is `string`; it must be one of text, integer, boolean",
        ),
        ("model: fast\ninput: {history: text}", "a.yaml:5:13: error: `history` is no field"),
        (
            "model: fast\ninput: {n: {type: integer, min: 5, max: 1}}",
            "a.yaml:5:16: error: `n`: no number is from 5 to 1",
        ),
        (
            "model: fast\ninput: {n: {type: text, min: 5}}",
            "a.yaml:5:29: error: `min` means nothing for a field of this type",
        ),
        ("model: fast\nschema: order", "a.yaml:5:13: error: there is no schema `order`"),
        ("model: fast\nroles: [vip]", "a.yaml:5:13: error: there is no role `vip`"),
        ("model: fast\nfallback: p", "a.yaml:5:15: error: `fallback` goes round in a circle: p → p"),
        (
            "model: fast\nsync_deadline_ms: 9",
            "a.yaml:5:23: error: `sync_deadline_ms` is the number 9; it must be a whole number from 100 to 3600000",
        ),
        (
            "model: fast\nsystem_prompt: key ${TOKEN} here",
            "a.yaml:5:20: error: `${TOKEN}` names a secret, and none belongs here",
        ),
    ];
    for (lines, expected) in cases {
        first(&profile(lines), expected);
    }
}

#[test]
fn circles_are_found_wherever_they_begin() {
    let chain = |pairs: &[(&str, &str)]| {
        let entry = |(name, next): &(&str, &str)| format!("  {name}: {{model: m, fallback: {next}}}\n");
        let entries: String = pairs.iter().map(entry).collect();
        format!("models: {{m: {{kind: openclaw}}}}\nprofiles:\n{entries}")
    };
    first(
        &chain(&[("a", "b"), ("b", "c"), ("c", "b")]),
        "a.yaml:4:27: error: `fallback` goes round in a circle: b → c → b",
    );
    assert_eq!(lines(&[("a.yaml", &(chain(&[("a", "b"), ("b", "c")]) + "  c: {model: m}\n"))]), "");
}

#[test]
fn models_and_their_keys() {
    let model = |rest: &str| format!("models:\n  m: {{kind: openai_compatible, model: x, {rest}}}\n");
    first("models: {m: {}}", "a.yaml:1:13: error: `m` has no `kind`");
    first("models: {m: {kind: open_claw}}", "a.yaml:1:20: error: `kind` is `open_claw`");
    first(
        "models: {m: {kind: openclaw, agent: a b}}",
        "a.yaml:1:37: error: `agent` is `a b`; it must be a name of at most 64 letters, digits, `_`, `-`, `.`, `/` and `:`",
    );
    first(&model("api_key: '${K}'"), "a.yaml:2:6: error: `m` has no `base_url`");
    first(
        &model("base_url: 'http://api.example.com/v1'"),
        "a.yaml:2:52: error: `base_url` is http to a public host: the key and what people write could be read on the way; use https",
    );
    first(
        &model("base_url: 'https://u:secret@a.example/v1'"),
        "a.yaml:2:52: error: `base_url` must be plain: no credentials, query, fragment or space",
    );
    first(
        &model("base_url: 'http://localhost:1/v1', api_key: '${OPENCLAW_GATEWAY_TOKEN}'"),
        "a.yaml:2:86: error: OPENCLAW_GATEWAY_TOKEN is this gateway's own secret, and would be sent to the model's server",
    );
    let served = |rest: &str| model(&format!("base_url: 'http://localhost:1/v1', {rest}"));
    first(
        &served("replicas: ['http://api.example.com/v1']"),
        "a.yaml:2:88: error: `replicas` is http to a public host: the key and what people write could be read on the way; use https",
    );
    first(&served("fallback: m"), "a.yaml:2:87: error: a model cannot stand in for itself");
    first(&served("fallback: n"), "a.yaml:2:87: error: there is no openai_compatible model `n`");
    first(
        &served("on_overflow: cut"),
        "a.yaml:2:90: error: `on_overflow` is `cut`; it must be one of refuse, trim",
    );
    let many = format!("replicas: [{}]", vec!["'http://localhost:2/v1'"; 16].join(", "));
    assert!(lines(&[("a.yaml", &served(&many))]).contains("error: a model has at most 16 servers"));
    first("limits: {max_concurrency_per_model: {fats: 3}}", "a.yaml:1:38: error: there is no model `fats`");
}

#[test]
fn tools() {
    let tool = |rest: &str| {
        format!(
            "tools:\n  t: {{description: x, parameters: {{type: object}}, url: 'https://a.example/t', {rest}}}\n"
        )
    };
    let cases = [
        (tool("timeout_ms: 10"), "a.yaml:2:6: error: `t` has no `class`"),
        (tool("class: reed"), "a.yaml:2:86: error: `class` is `reed`; it must be one of read, write, destructive"),
        (tool("class: read, approve: user"), "a.yaml:2:101: error: `approve` means nothing for a tool of class read"),
        (tool("class: destructive"), "a.yaml:2:3: error: tool `t` is destructive, and is not allowed"),
        (
            tool("class: destructive, allow_destructive: false"),
            "a.yaml:2:3: error: tool `t` is destructive, and is not allowed",
        ),
        (
            tool("class: destructive, allow_destructive: true") + "audit: {enabled: false}\n",
            "a.yaml:2:118: error: tool `t` is destructive, and the audit is off",
        ),
        (
            tool("class: write, allow_destructive: true"),
            "a.yaml:2:112: error: `allow_destructive` means nothing for a tool of class write",
        ),
        (
            tool("class: write, approve: [user]"),
            "a.yaml:2:102: error: `approve` is a list; it must be one of user, operator, two_operators, user_and_operator",
        ),
        (
            tool("class: read, secret: hunter2"),
            "a.yaml:2:100: error: `secret` holds a value that is no name of a secret; it is not shown",
        ),
        (
            tool("class: read, secret: '${API_KEY}'"),
            "a.yaml:2:100: error: API_KEY is this gateway's own secret, and would be sent to the tool's server",
        ),
        (
            "tools: {t: {description: x, parameters: {type: object}, class: read, url: 'http://a.example/t'}}".into(),
            "a.yaml:1:75: error: `url` is http to a public host: the key and what people write could be read on the way; use https",
        ),
        (
            "tools: {t: {description: x, parameters: {type: array}, class: read, url: 'https://a.example/t'}}".into(),
            "a.yaml:1:41: error: `parameters` is not a schema of an object",
        ),
        (
            "tools: {t: {description: x, parameters: {typ: object}, class: read, url: 'https://a.example/t'}}".into(),
            "a.yaml:1:41: error: `parameters`: #/typ: `typ` is not supported here",
        ),
        ("tools: {Cancel-Order: {}}".into(), "a.yaml:1:9: error: `Cancel-Order` is no valid name"),
        ("audit: {keep: 1m}".into(), "a.yaml:1:15: error: `keep` is `1m`; it must be a time with its unit, as 90s, 10m, 1h or 2d, from 3600s to 315360000s"),
        ("turns: {keeep: 1h}".into(), "a.yaml:1:9: error: unknown key `keeep`"),
    ];
    for (yaml, expected) in cases {
        first(&yaml, expected);
    }
    let kept = |class: &str| {
        format!(
            "{}models: {{m: {{kind: openclaw}}}}\nprofiles: {{p: {{model: m, tools: [t], cache: 1h}}}}\n",
            tool(class)
        )
    };
    first(&kept("class: write"), "a.yaml:4:45: error: answers of tools that act cannot be kept");
    assert_eq!(lines(&[("a.yaml", &kept("class: read"))]), "");
}

#[test]
fn a_secret_is_refused_and_never_shown() {
    let keys = [
        "sk-proj-Abcdefgh0123456789",
        "3f8a9b2c4d5e6f708192a3b4c5d6e7f8",
        "short",
        "[sk-proj-Abcdefgh0123456789]",
        "12345678",
    ];
    for key in keys {
        let yaml = format!(
            "models:\n  m: {{kind: openai_compatible, base_url: 'http://localhost/v1', model: x, api_key: {key}}}\n"
        );
        let all = lines(&[("a.yaml", &yaml)]);
        assert!(all.contains("error:") && all.contains("${NAME}"), "{all}");
        assert!(!all.contains(key.trim_matches(['[', ']'])), "{all}");
    }
    let places = [
        "profiles: {p: {model: m, system_prompt: 'use KEY'}}",
        "profiles: {p: {model: KEY}}",
        "KEY: 1",
        "routing: {a: KEY}",
        "schemas: {s: {description: KEY}}",
        "profiles: {p: {model: m, max_tokens: KEY}}",
        "profiles: {p: {model: m, prompt: '{{KEY}}'}}",
        "faq: KEY",
    ];
    for place in places {
        let all = lines(&[("a.yaml", &place.replace("KEY", "sk-proj-Abcdefgh0123456789"))]);
        assert!(all.contains("this looks like a secret, and is not shown"), "{place}: {all}");
        assert!(!all.contains("Abcdefgh"), "{place}: {all}");
    }
}

#[test]
fn routing_and_rules() {
    let good = "models: {m: {kind: openclaw}}\nprofiles: {p: {model: m}, q: {model: m}}\n";
    let cases = [
        ("routing: {mini_intent: {qa: p}}", "a.yaml:3:11: error: unknown key `mini_intent`"),
        ("routing: {qa: {roles: {}}}", "a.yaml:3:15: error: `qa` has no `profile`"),
        (
            "routing: {qa: p, mini_intents: {qa: p}}",
            "a.yaml:3:33: error: intent `qa` is given twice: it is already at a.yaml:3:11",
        ),
        (
            "routing: {qa: {profile: p, rollout: {to: p}}}",
            "a.yaml:3:42: error: `to` is the profile that answers already",
        ),
        (
            "routing: {qa: {profile: p, rollout: {to: q, steps: [{percent: 5}, {percent: 5}]}}}",
            "a.yaml:3:67: error: `percent` must be more than in the step before",
        ),
        (
            "environments: {prod: {allowed_profiles: [p, r]}}",
            "a.yaml:3:45: warning: `r` is allowed, and there is no such profile yet",
        ),
        (
            "environments: {prod: {log_level: loud}}",
            "a.yaml:3:34: error: `log_level` is `loud`; it must be one of debug, info, warn, error",
        ),
        (
            "environments: {prod: {limits: {rate: fast}}}",
            "a.yaml:3:38: error: `rate` is `fast`; it must be `per_minute` or `per_minute/burst`, as \"60/20\"",
        ),
        (
            "environments: {prod: {limits: {rate: 0}}}",
            "a.yaml:3:38: error: `rate` is the number 0; it must be `per_minute` or `per_minute/burst`, as \"60/20\"",
        ),
        ("roles: {VIP: {}}", "a.yaml:3:9: error: `VIP` is no valid name"),
        ("faq: [{intent: qa, questions: [a], answer: b}]", "a.yaml:3:16: error: there is no intent `qa`"),
        ("schemas: {s: {type: nothing}}", "a.yaml:3:14: error: schema `s`: #/type: "),
        ("redaction: {custom: {x: 'a+'}}", "a.yaml:3:25: error: pattern `x`: "),
    ];
    for (line, expected) in cases {
        let all = lines(&[("a.yaml", &format!("{good}{line}\n"))]);
        assert!(all.starts_with(expected), "{all}in {line}, not\n{expected}");
    }
}

#[test]
fn two_files_are_one_configuration() {
    let models = "models: {m: {kind: openclaw}}\nrouting: {defaults: {model: m}}\n";
    let one = "profiles: {a: {max_tokens: 1}}\nrouting: {mini_intents: {qa: a}}\n";
    let two = "profiles: {b: {max_tokens: 2}}\nrouting: {mini_intents: {ask: b}}\nfaq: []\n";
    assert_eq!(
        lines(&[("m.yaml", models), ("1.yaml", one), ("2.yaml", two), ("empty.yaml", "# nothing\n")]),
        ""
    );
    let again = "profiles:\n  a: {max_tokens: 3}\nrouting:\n  defaults: {model: m}\n";
    let expected = "\
2.yaml:2:3: error: `a` is given in two files: it is already at 1.yaml:1:12
  help: keep one of them, or give the other another name
2.yaml:4:14: error: `model` is given in two files: it is already at m.yaml:2:22
  help: keep one of them, or give the other another name
";
    assert_eq!(lines(&[("m.yaml", models), ("1.yaml", one), ("2.yaml", again)]), expected);
}
