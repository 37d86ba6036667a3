//! `wasm-glue INPUT.wasm OUT_DIR`: runs wasm-bindgen on cargo's output.
//!
//! Writes `index_bg.wasm`, `index.js` and `snippets/`, ready to be loaded by
//! workerd as they are.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [input, out_dir] => glue(Path::new(input), Path::new(out_dir)),
        _ => Err("usage: wasm-glue INPUT.wasm OUT_DIR".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("wasm-glue: {message}");
            ExitCode::FAILURE
        }
    }
}

fn glue(input: &Path, out_dir: &Path) -> Result<(), String> {
    // The reset function lets the entry replace the instance after a trap. No
    // abort handler: it adds exception handling and a tag import to the module,
    // and a tag belongs to one store, so the native host could not prepare the
    // module once for all of them.
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen
        .module(true)
        .and_then(|bindgen| {
            bindgen
                .input_path(input)
                .out_name("index")
                .typescript(false)
                .remove_name_section(true)
                .remove_producers_section(true)
                .reset_state_function(true)
                .generate(out_dir)
        })
        .map_err(|error| format!("{error:#}"))?;

    // wasm-bindgen writes a source phase import. workerd gives the module itself
    // for a plain one, and bundlers know only that.
    let js = out_dir.join("index.js");
    let text = std::fs::read_to_string(&js).map_err(|error| error.to_string())?;
    let plain = text.replacen("import source wasmModule from", "import wasmModule from", 1);
    if plain == text {
        return Err("the generated index.js has no source phase import: other wasm-bindgen?".to_owned());
    }
    std::fs::write(&js, plain).map_err(|error| error.to_string())
}
