//! The command line.

use std::path::{Path, PathBuf};

use clap::Parser;
use llmserve::route::simulation::{ReplicaModel, SimulatedRequest, Traffic};

/// Run llmserve's routing policies before simulated replicas, in virtual time.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Arguments {
    /// Replicas, all alike.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub replicas: usize,
    /// Policies by name, to be run one after the other.
    #[arg(
        long,
        value_name = "A,B,C",
        value_delimiter = ',',
        default_value = "random,round-robin,least-loaded,bounded-hash,kv-aware"
    )]
    pub policy: Vec<String>,
    /// What is asked: multi-turn, shared-prefix, random, or a file with one request a line.
    #[arg(
        long,
        value_name = "multi-turn|shared-prefix|random|FILE.jsonl",
        default_value = "multi-turn"
    )]
    pub trace: String,
    /// Clients that ask at the same time. Not for a file.
    #[arg(long, value_name = "N", default_value_t = Traffic::multi_turn().clients)]
    pub clients: usize,
    /// Seconds from an answer to the client's next message, in the mean. Not for a file.
    #[arg(long, value_name = "SECONDS")]
    pub think: Option<f64>,
    /// Requests that are counted, after three of each client. Default: eight of each client.
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Which of all random workloads, and of all random choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Tokens a replica's KV holds.
    #[arg(long, value_name = "TOKENS", default_value_t = ReplicaModel::default().kv_tokens)]
    kv_tokens: usize,
    /// Prompt tokens a replica computes in a second.
    #[arg(long, value_name = "RATE", default_value_t = ReplicaModel::default().prefill_tokens_per_s)]
    prefill_rate: f64,
    /// Milliseconds of a step in which answers grow.
    #[arg(long, value_name = "MS", default_value_t = ReplicaModel::default().decode_ms)]
    decode_ms: f64,
    /// Milliseconds of each of those answers.
    #[arg(long, value_name = "MS", default_value_t = ReplicaModel::default().row_ms)]
    row_ms: f64,
    /// Draw times to first token, throughput and hits into an SVG file.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Print one JSON object a policy.
    #[arg(long)]
    pub json: bool,
}

/// What is asked.
pub enum Asked {
    /// By clients that wait for their answers.
    Clients(Traffic),
    /// As it was recorded.
    Recorded(Vec<SimulatedRequest>),
}

impl Arguments {
    /// What each replica can do.
    pub fn model(&self) -> ReplicaModel {
        ReplicaModel {
            kv_tokens: self.kv_tokens,
            prefill_tokens_per_s: self.prefill_rate,
            decode_ms: self.decode_ms,
            row_ms: self.row_ms,
            ..ReplicaModel::default()
        }
    }

    /// What is asked.
    ///
    /// # Errors
    /// A text that names the flag, or the file and line, that is wrong.
    pub fn asked(&self) -> Result<Asked, String> {
        let mut traffic = match self.trace.as_str() {
            "multi-turn" => Traffic::multi_turn(),
            "shared-prefix" => Traffic::shared_prefix(),
            "random" => Traffic::random(),
            file => return recorded(Path::new(file)).map(Asked::Recorded),
        };
        traffic.clients = self.clients;
        if let Some(think) = self.think {
            let think = std::time::Duration::try_from_secs_f64(think);
            traffic.think = think.map_err(|error| format!("--think: {error}"))?;
        }
        Ok(Asked::Clients(traffic))
    }
}

/// The requests of a file, in the order they come.
fn recorded(file: &Path) -> Result<Vec<SimulatedRequest>, String> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| {
        format!(
            "{}: {error}; a trace is multi-turn, shared-prefix, random or a file",
            file.display()
        )
    })?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let requests = lines.map(|(number, line)| {
        let request = serde_json::from_str(line);
        request.map_err(|error| format!("{}:{}: {error}", file.display(), number + 1))
    });
    let mut requests: Vec<SimulatedRequest> = requests.collect::<Result<_, _>>()?;
    requests.sort_by_key(|request| request.arrival);
    Ok(requests)
}
