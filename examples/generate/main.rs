//! The main job: prompts in, tokens out.
//!
//! ```text
//! cargo run --release --example generate -- --prompt "HAMLET"
//! cargo run --release --example generate -- --requests FILE.jsonl --json
//! ```
//!
//! All requests are submitted at once and served together, in one batch that changes with every
//! step. Without `--json` a single prompt streams to the terminal; with it, each finished choice
//! is one JSON object on stdout, each error another, and a summary goes to stderr.

mod args;
mod print;
mod requests;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use llmserve::prelude::*;

use args::Args;
use print::{Summary, choice_json, error_json};
use requests::Item;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    if args.logprobs.is_some() && !args.json {
        return Err("--logprobs needs --json: text has no place for them".to_owned());
    }
    let items = requests::read(args)?;
    let engine = args.engine.build()?;
    let began = Instant::now();
    let streaming = !args.json && args.requests.is_none();
    let failed = serve(&engine, items, args, streaming)?;
    let stats = engine.stats();
    let summary = Summary::new(&stats, failed, began.elapsed());
    if args.json {
        eprintln!("{}", summary.json());
    } else {
        eprintln!("{summary}");
    }
    engine.drain();
    // In a batch every line has its own answer or error; a single prompt is all there is.
    let broken = failed > 0 && args.requests.is_none();
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Serves all items together and prints what comes; returns how many failed.
fn serve(engine: &Engine, items: Vec<Item>, args: &Args, streaming: bool) -> Result<usize, String> {
    let total = items.len();
    let mut ids = Vec::with_capacity(total);
    let mut streams = Vec::with_capacity(total);
    for item in items {
        ids.push(item.id);
        streams.push(match item.request {
            Ok(request) => engine.generate(*request),
            Err(error) => EventStream::failed(error),
        });
    }
    let bar = if streaming || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        let style = "{bar:40} {pos}/{len} requests, {elapsed} {msg}";
        let style = ProgressStyle::with_template(style).map_err(|error| error.to_string())?;
        ProgressBar::new(total as u64).with_style(style)
    };
    let mut responses = vec![Response::default(); total];
    let mut ended = vec![false; total];
    let mut failed = 0;
    let mut tokens = 0;
    let mut out = std::io::stdout().lock();
    let broken = |error: std::io::Error| format!("stdout: {error}");
    for (index, event) in merge(streams) {
        match event {
            Ok(event) => {
                let first_choice = match &event {
                    Event::Token(token) => token.index == 0,
                    Event::Finished(finished) => finished.index == 0,
                    _ => false,
                };
                if streaming && first_choice {
                    write!(out, "{}", event.text())
                        .and_then(|()| out.flush())
                        .map_err(broken)?;
                }
                tokens += usize::from(matches!(event, Event::Token(_)));
                let finished = match &event {
                    Event::Finished(finished) => Some(finished.index),
                    _ => None,
                };
                responses[index].push(event);
                if let Some(choice) = finished {
                    let response = &responses[index];
                    if args.json {
                        let has_text = engine.tokenizer().is_some();
                        let line = choice_json(&ids[index], choice, response, has_text);
                        writeln!(out, "{line}").map_err(broken)?;
                    } else if streaming {
                        if choice == 0 {
                            writeln!(out).map_err(broken)?;
                        }
                    } else {
                        bar.suspend(|| print::choice(&mut out, &ids[index], choice, response))
                            .map_err(broken)?;
                    }
                    if response
                        .choices
                        .iter()
                        .all(|choice| choice.reason.is_some())
                    {
                        ended[index] = true;
                    }
                }
            }
            Err(error) => {
                failed += 1;
                ended[index] = true;
                if args.json {
                    writeln!(out, "{}", error_json(&ids[index], &error)).map_err(broken)?;
                } else {
                    bar.suspend(|| eprintln!("error: request {}: {error}", ids[index]));
                }
            }
        }
        bar.set_position(ended.iter().filter(|ended| **ended).count() as u64);
        bar.set_message(format!("{tokens} tokens"));
    }
    if streaming {
        // The other choices of a streamed prompt follow the first.
        for (id, response) in ids.iter().zip(&responses) {
            for choice in 1..response.choices.len() {
                print::choice(&mut out, id, choice, response).map_err(broken)?;
            }
            if engine.tokenizer().is_none() {
                writeln!(out, "{:?}", response.ids()).map_err(broken)?;
            }
        }
    }
    bar.finish_and_clear();
    out.flush().map_err(broken)?;
    Ok(failed)
}
