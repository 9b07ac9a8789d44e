//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use llmserve::sched::simulation::{
    Arrivals, Cancels, Lengths, LinearCost, Prefixes, SimulatedRequest, Traffic,
};

/// Run llmserve's scheduler and KV manager in virtual time.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Arguments {
    #[command(flatten)]
    pub traffic: TrafficArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub cost: CostArgs,
    /// Which of all random workloads.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Draw latencies, batch and memory into an SVG file.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Print the whole report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct TrafficArgs {
    /// Requests, all tenants together.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    requests: u64,
    /// Requests a second, all tenants together.
    #[arg(long, value_name = "R", default_value_t = 40.0)]
    rate: f64,
    /// When they come.
    #[arg(long, value_enum, default_value_t = Pattern::Poisson)]
    arrivals: Pattern,
    /// Requests in a burst.
    #[arg(long, value_name = "N", default_value_t = 32)]
    burst: u64,
    /// Mean of a prompt's tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 200.0)]
    prompt: f64,
    /// Mean of an answer's tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 100.0)]
    output: f64,
    /// All prompts and all answers have their mean length.
    #[arg(long)]
    fixed: bool,
    /// What each request says it may generate at most. Default: what it will.
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Tenants with equal parts of the traffic.
    #[arg(long, value_name = "N", default_value_t = 1)]
    tenants: u64,
    /// One more tenant sends this many requests at once.
    #[arg(long, value_name = "N", default_value_t = 0)]
    flood: u64,
    /// Beginnings that each tenant's prompts share.
    #[arg(long, value_name = "N", default_value_t = 0)]
    prefixes: u32,
    /// Tokens of such a beginning.
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prefix_tokens: usize,
    /// How many prompts begin with one, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    prefix_share: f64,
    /// How long after its arrival an answer is worthless.
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<f64>,
    /// How many give up, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    cancel_share: f64,
    /// After how long, in the mean.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    cancel_after: f64,
    /// Any traffic: a JSON list of the library's `Traffic`, in place of the flags above.
    #[arg(long, value_name = "FILE.json")]
    traffic: Option<PathBuf>,
    /// A recorded trace, one request a line, in place of all that; `-` reads it from stdin.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "traffic")]
    pub trace: Option<PathBuf>,
    /// Write the requests as a trace, and run nothing.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "trace")]
    pub write_trace: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct EngineArgs {
    /// Who is served first.
    #[arg(long, value_enum, default_value_t = Order::Fcfs)]
    pub policy: Order,
    /// Tenants take turns, by tokens of service.
    #[arg(long)]
    pub fair: bool,
    /// Keep no room for what running requests may still generate.
    #[arg(long)]
    pub no_reservation: bool,
    /// How long newcomers may be held back for a fuller batch.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub admission_delay: u64,
    /// Most tokens one step computes.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub max_batched_tokens: usize,
    /// Most sequences that run at once.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_num_seqs: usize,
    /// Most requests that may wait; the others are refused. Default: no limit.
    #[arg(long, value_name = "N")]
    pub max_queue: Option<usize>,
    /// KV blocks.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub kv_blocks: usize,
    /// Tokens a KV block holds.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub block_size: usize,
    /// Compute every prompt from its first token, whatever is cached.
    #[arg(long)]
    pub no_prefix_cache: bool,
}

#[derive(Args, Debug)]
pub struct CostArgs {
    /// Prompt tokens a second.
    #[arg(long, value_name = "RATE", default_value_t = LinearCost::default().prefill_tokens_per_s)]
    prefill_rate: f64,
    /// Milliseconds of any step.
    #[arg(long, value_name = "MS", default_value_t = LinearCost::default().decode_ms)]
    decode_ms: f64,
    /// Milliseconds of each decoding row.
    #[arg(long, value_name = "MS", default_value_t = LinearCost::default().row_ms)]
    row_ms: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pattern {
    Poisson,
    Even,
    Bursts,
    AtOnce,
}

/// The scheduler's policies.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Order {
    /// First come, first served.
    Fcfs,
    /// By the requests' own priorities.
    Priority,
    /// By priority; a waiting request may take the seat of a less important one.
    Displacing,
    /// Earliest deadline first.
    Deadline,
    /// Longest cached prefix first.
    Prefix,
    /// Shortest predicted work first.
    Shortest,
}

impl TrafficArgs {
    /// What is sent, by whom.
    ///
    /// # Errors
    /// A text that says which flag or file is wrong.
    pub fn traffics(&self) -> Result<Vec<Traffic>, String> {
        if let Some(file) = &self.traffic {
            let text = std::fs::read_to_string(file);
            let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
            return serde_json::from_str(&text)
                .map_err(|error| format!("{}: {error}", file.display()));
        }
        let tenants = self.tenants.max(1);
        let kind = self.kind()?;
        let mut traffics: Vec<Traffic> = (0..tenants)
            .map(|number| Traffic {
                requests: self.requests / tenants + u64::from(number < self.requests % tenants),
                tenant: (tenants > 1 || self.flood > 0).then(|| format!("tenant {number}")),
                ..kind.clone()
            })
            .collect();
        if self.flood > 0 {
            traffics.push(Traffic {
                requests: self.flood,
                arrivals: Arrivals::AtOnce,
                tenant: Some("flood".to_owned()),
                ..kind
            });
        }
        Ok(traffics)
    }

    /// One tenant's.
    fn kind(&self) -> Result<Traffic, String> {
        let per_second = self.rate / self.tenants.max(1) as f64;
        let after = |seconds: f64, flag: &str| {
            Duration::try_from_secs_f64(seconds).map_err(|error| format!("{flag}: {error}"))
        };
        let (prompt, output) = if self.fixed {
            let fixed = |mean: f64| Lengths::Fixed {
                tokens: mean as usize,
            };
            (fixed(self.prompt), fixed(self.output))
        } else {
            let prompt = Lengths::LogNormal {
                mean: self.prompt,
                sigma: 1.0,
                max: 8192,
            };
            let output = Lengths::Geometric {
                mean: self.output,
                max: 4096,
            };
            (prompt, output)
        };
        let cancels = Cancels {
            share: self.cancel_share,
            after: after(self.cancel_after, "--cancel-after")?,
        };
        let prefixes = Prefixes {
            count: self.prefixes,
            tokens: self.prefix_tokens,
            share: self.prefix_share,
        };
        let deadline = self.deadline.map(|at| after(at, "--deadline"));
        Ok(Traffic {
            arrivals: match self.arrivals {
                Pattern::Poisson => Arrivals::Poisson { per_second },
                Pattern::Even => Arrivals::Even { per_second },
                Pattern::Bursts => Arrivals::Bursts {
                    per_second,
                    size: self.burst,
                },
                Pattern::AtOnce => Arrivals::AtOnce,
            },
            prompt,
            output,
            max_tokens: self.max_tokens,
            deadline: deadline.transpose()?,
            cancels: (self.cancel_share != 0.0).then_some(cancels),
            prefixes: (self.prefixes > 0).then_some(prefixes),
            ..Traffic::default()
        })
    }

    /// The recorded requests, in the order they come; none if there is no `--trace`.
    ///
    /// # Errors
    /// A text that names the line that is wrong.
    pub fn recorded(&self) -> Result<Option<Vec<SimulatedRequest>>, String> {
        let Some(file) = &self.trace else {
            return Ok(None);
        };
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let requests = lines.map(|(number, line)| {
            let request = serde_json::from_str(line);
            request.map_err(|error| format!("{}:{}: {error}", file.display(), number + 1))
        });
        let mut requests: Vec<SimulatedRequest> = requests.collect::<Result<_, _>>()?;
        requests.sort_by_key(|request| request.arrival);
        Ok(Some(requests))
    }
}

impl CostArgs {
    /// How long steps take.
    pub fn model(&self) -> Result<LinearCost, String> {
        let numbers = [self.decode_ms, self.row_ms];
        let valid = numbers.iter().all(|ms| ms.is_finite() && *ms >= 0.0);
        if !valid || !self.prefill_rate.is_finite() || self.prefill_rate <= 0.0 {
            return Err(
                "--prefill-rate must be above 0, --decode-ms and --row-ms at least 0".to_owned(),
            );
        }
        Ok(LinearCost {
            prefill_tokens_per_s: self.prefill_rate,
            decode_ms: self.decode_ms,
            row_ms: self.row_ms,
        })
    }
}
