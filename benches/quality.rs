//! What each way to store weights costs: the perplexity of held-out text, beside that of `f32`.
//!
//! Once for the embedded model as it is, and once for a model of the same function in which one
//! channel in two hundred carries activations fifty times larger, as channels of large models do.

use std::error::Error;
use std::path::Path;

use clap::Parser;
use llmserve_benches::{Report, embedded_model};
use llmserve_model::{CpuOptions, ModelFolder};

#[path = "../llmserve-model/tests/quality/bounds.rs"]
mod bounds;
#[path = "../llmserve-model/tests/quality/heldout.rs"]
mod heldout;
#[path = "../llmserve-model/tests/quality/rescale.rs"]
mod rescale;

use bounds::{BOUNDS, Bound};
use heldout::{HeldOut, perplexity};
use rescale::Rescale;

/// Perplexity by how weights are stored.
#[derive(Parser)]
struct Args {
    /// Print one JSON object a row.
    #[arg(long)]
    json: bool,
    /// Two windows of text: does it run at all?
    #[arg(long)]
    quick: bool,
    /// Which channels are enlarged.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut text = HeldOut::bard()?;
    if args.quick {
        text.windows.truncate(2);
    }
    let title = format!(
        "{} windows of held-out text; the reference's perplexity of all is {:.3}",
        text.windows.len(),
        text.reference
    );
    let mut report = Report::new(&title, args.json);
    let folder = embedded_model();
    let exact = rows(&mut report, &folder, &text, None, |bound| Some(bound.plain))?;

    let rescaled = folder_beside("llmserve-quality")?;
    let rescale = Rescale {
        seed: args.seed,
        ..Rescale::default()
    };
    let done = rescale.write(&folder, &rescaled).and_then(|_| {
        rows(&mut report, &rescaled, &text, Some(exact), |bound| {
            bound.rescaled
        })
    });
    std::fs::remove_dir_all(&rescaled)?;
    done.map(|_| ())
}

/// A row for each way to store the weights in `folder`; the perplexity in `f32`, to which the
/// others are compared unless `exact` is given.
fn rows(
    report: &mut Report,
    folder: &Path,
    text: &HeldOut,
    mut exact: Option<f64>,
    allowed: impl Fn(&Bound) -> Option<f64>,
) -> Result<f64, Box<dyn Error>> {
    let model = if exact.is_some() { "rescaled" } else { "plain" };
    for bound in &BOUNDS {
        let options = CpuOptions {
            dtype: bound.dtype,
            ..CpuOptions::default()
        };
        let mut loaded = ModelFolder::load(folder, options)?;
        let found = perplexity(&mut loaded.model, &text.windows)?;
        // The first is f32.
        let exact = *exact.get_or_insert(found);
        report.row(
            &format!("{model}, {}", bound.dtype),
            &[
                ("model", model.into()),
                ("dtype", bound.dtype.to_string().into()),
                ("perplexity", found.into()),
                ("ratio", (found / exact).into()),
                ("allowed", allowed(bound).map(|share| 1.0 + share).into()),
                ("weights_bytes", loaded.model.packed_bytes().into()),
            ],
        );
    }
    exact.ok_or_else(|| "no way to store weights is known".into())
}

/// A new folder for temporary files.
fn folder_beside(name: &str) -> std::io::Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    Ok(folder)
}
