//! A conversation in the terminal.
//!
//! ```text
//! cargo run --release --example chat
//! ```
//!
//! `/stats` shows the engine's counters, `/reset` forgets the conversation, `/quit` leaves.
//! Ctrl-C cancels the current answer only; Ctrl-D leaves too.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use clap::Parser;
use llmserve::EngineStats;
use llmserve::prelude::*;
use llmserve_examples::EngineArgs;

/// Talk to a model.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Standing instructions, if the model's template knows them.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of one answer.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// 0 is greedy.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    temperature: f32,
    /// Keep the most probable tokens that make up this probability.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// The noise of sampling; a new one for every answer by default.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// What Ctrl-C does depends on whether the model is speaking.
#[derive(Default)]
struct Interrupt {
    answering: AtomicBool,
    asked: AtomicBool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let engine = args.engine.build()?;
    let interrupt = Arc::new(Interrupt::default());
    let handler = interrupt.clone();
    ctrlc::set_handler(move || {
        if handler.answering.load(Ordering::SeqCst) {
            handler.asked.store(true, Ordering::SeqCst);
        } else {
            // An answer that ended a moment ago is no reason to end the conversation.
            eprint!("\n/quit or Ctrl-D leaves\n> ");
        }
    })
    .map_err(|error| error.to_string())?;

    eprintln!("{}; /stats, /reset, /quit", engine.info().name);
    let first: Vec<Message> = args.system.iter().map(Message::system).collect();
    let mut conversation = first.clone();
    loop {
        eprint!("> ");
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        if read.map_err(|error| format!("stdin: {error}"))? == 0 {
            break;
        }
        match line.trim() {
            "" => {}
            "/quit" => break,
            "/reset" => conversation.clone_from(&first),
            "/stats" => eprint!("{}", told(&engine.stats())),
            command if command.starts_with('/') => eprintln!("no such command: {command}"),
            text => {
                conversation.push(Message::user(text));
                let mut request = Request::messages(conversation.clone())
                    .max_tokens(args.max_tokens)
                    .temperature(args.temperature)
                    .top_p(args.top_p);
                request.sampling.seed = args.seed;
                match answer(&engine, request, &interrupt) {
                    Ok(text) => conversation.push(Message::assistant(text)),
                    Err(error) => {
                        eprintln!("error: {error}");
                        conversation.pop();
                    }
                }
            }
        }
    }
    engine.shutdown();
    Ok(())
}

/// What the engine has done, in a few lines.
fn told(stats: &EngineStats) -> String {
    let share = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
    let mut text = format!(
        "{} steps: {} tokens generated after {} of prompts, {} of those found in the cache\n\
         KV: {} of {} blocks held, {} at most; {:.1} % of their slots empty; {} preemptions\n",
        stats.steps,
        stats.generation_tokens,
        stats.prompt_tokens,
        stats.prefix_hit_tokens,
        stats.kv_blocks_held,
        stats.kv_blocks_total,
        stats.kv_blocks_peak,
        100.0 * stats.kv_waste_mean,
        stats.preemptions,
    );
    if stats.spec_drafts > 0 {
        let places = stats.spec_accepted_per_pos.iter();
        let places = places.take_while(|accepted| **accepted > 0);
        let places: Vec<String> = places
            .map(|accepted| format!("{:.0} %", share(*accepted, stats.spec_drafts)))
            .collect();
        text += &format!(
            "drafts: {} in {} rows, {:.0} % accepted; by place {}\n",
            stats.spec_draft_tokens,
            stats.spec_drafts,
            share(stats.spec_accepted_tokens, stats.spec_draft_tokens),
            places.join(", "),
        );
    }
    text
}

/// Prints an answer as it comes; returns what there was of it when it ended or was cancelled.
fn answer(engine: &Engine, request: Request, interrupt: &Interrupt) -> Result<String, Error> {
    let (sender, events) = channel();
    let stream = engine.generate(request);
    interrupt.asked.store(false, Ordering::SeqCst);
    interrupt.answering.store(true, Ordering::SeqCst);
    // The stream lives in a thread of its own, so that this one can look up when it is told to
    // stop. Once nobody listens, the thread ends and drops the stream, which cancels the request.
    let reader = thread::spawn(move || {
        for event in stream {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    let mut text = String::new();
    let result = loop {
        match events.recv_timeout(Duration::from_millis(20)) {
            Ok(Ok(event)) => {
                print!("{}", event.text());
                let _ = std::io::stdout().flush();
                text.push_str(event.text());
            }
            Ok(Err(error)) => break Err(error),
            Err(RecvTimeoutError::Disconnected) => break Ok(text),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupt.asked.load(Ordering::SeqCst) {
            print!(" [cancelled]");
            break Ok(text);
        }
    };
    println!();
    drop(events);
    let _ = reader.join();
    interrupt.answering.store(false, Ordering::SeqCst);
    result
}
