//! The command line.

use std::path::PathBuf;

use clap::Parser;
use llmserve_examples::EngineArgs;

/// Serve prompts with llmserve, in this process.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Args {
    #[command(flatten)]
    pub engine: EngineArgs,

    /// The prompt, as text.
    #[arg(long, value_name = "TEXT", group = "input")]
    pub prompt: Option<String>,
    /// The prompt, as comma-separated token ids.
    #[arg(
        long,
        value_name = "1,2,3",
        group = "input",
        allow_hyphen_values = true
    )]
    pub prompt_ids: Option<String>,
    /// Requests, one JSON object a line; `-` reads them from stdin.
    #[arg(long, value_name = "FILE.jsonl", group = "input")]
    pub requests: Option<PathBuf>,

    /// Most tokens generated. A request line's own field comes first, here and below.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// 0 is greedy.
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        allow_hyphen_values = true
    )]
    pub temperature: f32,
    /// Keep the most probable tokens that make up this probability.
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub top_p: Option<f32>,
    /// Keep this many most probable tokens.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// The noise of sampling.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Choices per prompt.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub n: usize,
    /// Treat the model's end tokens as ordinary ones.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Logprobs of each token, with this many alternatives.
    #[arg(long, value_name = "K")]
    pub logprobs: Option<usize>,

    /// Answers are JSON that the schema in this file accepts.
    #[arg(long, value_name = "FILE", group = "constraint")]
    pub schema: Option<PathBuf>,
    /// Answers are texts that all of this regular expression matches.
    #[arg(
        long,
        value_name = "R",
        group = "constraint",
        allow_hyphen_values = true
    )]
    pub regex: Option<String>,
    /// Answers are one of these texts.
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        group = "constraint",
        allow_hyphen_values = true
    )]
    pub choice: Option<Vec<String>>,

    /// One JSON object a finished choice on stdout, a summary object on stderr.
    #[arg(long)]
    pub json: bool,
}
