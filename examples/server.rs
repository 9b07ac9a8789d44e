//! A server of OpenAI's API over one engine.
//!
//! ```text
//! cargo run --release --example server -- --port 8000
//! curl http://127.0.0.1:8000/v1/completions -H 'content-type: application/json' \
//!     -d '{"prompt": "HAMLET", "max_tokens": 32}'
//! ```
//!
//! When it is ready it prints one line with its address. Ctrl-C, or a polite `kill`, drains: no
//! connection is accepted any more, answers on their way are told to their end, and it leaves
//! with 0. A second one does not wait.

use std::future::Future;
use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use llmserve::MemoryRecorder;
use llmserve::route::gateway::Gateway;
use llmserve_examples::EngineArgs;
use tokio::net::TcpListener;

/// Serve a model over HTTP.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// The address to listen on; 0.0.0.0 for every one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 for any that is free.
    #[arg(long, value_name = "P", default_value_t = 8000)]
    port: u16,
    /// What clients call the model. Default: the name of its folder.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long answers on their way have when it is told to leave.
    #[arg(long, value_name = "S", default_value_t = 30)]
    drain_seconds: u64,
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
    let recorder = Arc::new(MemoryRecorder::default());
    let metrics = recorder.clone();
    let engine = args.engine.build_with(|serve| serve.recorder(metrics))?;
    let name = args.name.clone().unwrap_or(engine.info().name.clone());
    let mut gateway = Gateway::new(engine.clone()).model(name).metrics(recorder);
    if let Some(tokenizer) = engine.tokenizer() {
        gateway = gateway.tokenizer(tokenizer.clone());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Requests are parsed and answers written: the model has its threads elsewhere.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let served = runtime.block_on(serve(args, gateway));
    runtime.shutdown_background();
    engine.shutdown();
    served
}

async fn serve(args: &Args, gateway: Gateway) -> Result<(), String> {
    let switch = gateway.switch();
    let listener = TcpListener::bind((args.host, args.port))
        .await
        .map_err(|error| format!("--port {}: {error}", args.port))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let leave = told_to_leave()?;
    // Whoever waits for this line may connect at once.
    println!("listening on http://{address}");
    let _ = std::io::stdout().flush();

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, gateway.into_router()).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());
    leave.await;
    switch.drain();
    let _ = stop.send(());
    eprintln!("draining {} requests", switch.in_flight());
    let limit = Duration::from_secs(args.drain_seconds);
    let again = told_to_leave()?;
    tokio::select! {
        _ = tokio::time::timeout(limit, server) => {}
        () = again => {}
    }
    if switch.in_flight() > 0 {
        eprintln!("{} requests were not answered", switch.in_flight());
    }
    Ok(())
}

/// Ctrl-C, or what `kill` and orchestrators send. It listens from the call on.
#[cfg(unix)]
fn told_to_leave() -> Result<impl Future<Output = ()>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| error.to_string());
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Ctrl-C.
#[cfg(not(unix))]
fn told_to_leave() -> Result<impl Future<Output = ()>, String> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}
