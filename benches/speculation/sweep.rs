//! The same prompts at every depth, each beside none.

use std::error::Error;

use llmserve::sched::speculation::AdaptiveDepth;
use llmserve::{Depth, FixedDepth, TokenId};
use llmserve_benches::Report;
use llmserve_examples::plot::{Chart, Curve, Panel};
use serde_json::Value;

use crate::clocked::Totals;
use crate::subject::{Measured, Subject};

/// What is measured of some prompts.
pub struct Sweep<'a> {
    /// Drafts a step, and 0 for as many as pay.
    pub depths: &'a [usize],
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Runs with drafts and as many without, in turns. The pair with the speed-up in the middle
    /// counts.
    pub runs: usize,
}

impl Sweep<'_> {
    /// Measures `prompts` at every depth and adds a row of each.
    pub fn run(
        &self,
        name: &str,
        subject: &Subject,
        prompts: &[Vec<TokenId>],
        report: &mut Report,
        curves: &mut Curves,
    ) -> Result<(), Box<dyn Error>> {
        let batch = prompts.len();
        let none = || Box::new(FixedDepth(0)) as Box<dyn Depth>;
        subject.depth.set(none());
        let first = subject.run(prompts, self.tokens)?;
        for (prompt, ids) in prompts.iter().zip(&first.ids) {
            subject.texts.tell(prompt[0], [&prompt[..], ids].concat());
        }
        for &depth in self.depths {
            // What it has learned is kept from run to run, as in an engine that is left on.
            let mut drafting: Box<dyn Depth> = match depth {
                0 => Box::new(AdaptiveDepth::default()),
                depth => Box::new(FixedDepth(depth)),
            };
            let mut pairs = Vec::new();
            for _ in 0..self.runs.max(1) {
                let without = subject.run(prompts, self.tokens)?;
                subject.depth.set(drafting);
                let with = subject.run(prompts, self.tokens)?;
                drafting = subject.depth.set(none());
                if with.ids != without.ids {
                    return Err(format!("{name}, batch {batch}, depth {depth}: other ids").into());
                }
                pairs.push((without, with));
            }
            let speedup = |(without, with): &(Measured, Measured)| without.seconds / with.seconds;
            let cold = speedup(&pairs[0]);
            pairs.sort_by(|a, b| speedup(a).total_cmp(&speedup(b)));
            let (plain, found) = pairs.swap_remove(pairs.len() / 2);
            let label = match depth {
                0 => "auto".to_owned(),
                depth => depth.to_string(),
            };
            let figures = figures(&plain, &found, cold, batch * (self.tokens - 1));
            report.row(&format!("{name}, batch {batch}, depth {label}"), &figures);
            curves.add(name, &label, batch, plain.seconds / found.seconds);
        }
        Ok(())
    }
}

/// A row: see the bench's page for what they mean.
fn figures(
    plain: &Measured,
    found: &Measured,
    cold: f64,
    tokens: usize,
) -> Vec<(&'static str, Value)> {
    let each =
        |total: std::time::Duration, of: &Totals| total.as_secs_f64() / of.steps.max(1) as f64;
    let (alone, with) = (&plain.totals, &found.totals);
    let step = plain.seconds / alone.steps.max(1) as f64;
    let target = each(alone.target_time, alone);
    let verify = each(with.target_time, with);
    let drafting = each(with.draft_time, with);
    let inside = each(with.model_time, with);
    let tokens_a_step = alone.steps as f64 / with.steps.max(1) as f64;
    let speedup = plain.seconds / found.seconds;
    let bound = tokens_a_step / (1.0 + drafting / step);
    // Of the engine's and the proposer's own work only what there was without drafts.
    let possible = tokens_a_step / (1.0 + (verify - target + inside) / step);
    let accepted = found.accepted as f64 / found.draft_tokens.max(1) as f64;
    let positions: Vec<f64> = found
        .per_pos
        .iter()
        .take_while(|count| **count > 0)
        .map(|count| *count as f64 / found.drafts.max(1) as f64)
        .map(|share| (share * 1e3).round() / 1e3)
        .collect();
    let passes = with.passes.max(1) as f64;
    vec![
        ("plain_tok_s", (tokens as f64 / plain.seconds).into()),
        ("tok_s", (tokens as f64 / found.seconds).into()),
        ("speedup", speedup.into()),
        ("bound", bound.into()),
        ("of_bound", (speedup / bound).into()),
        ("possible", possible.into()),
        ("of_possible", (speedup / possible).into()),
        ("cold", cold.into()),
        ("accepted", accepted.into()),
        ("tokens_a_step", tokens_a_step.into()),
        ("step_us", (step * 1e6).into()),
        ("target_us", (target * 1e6).into()),
        ("verify_us", (verify * 1e6).into()),
        (
            "pass_us",
            (with.draft_time.as_secs_f64() / passes * 1e6).into(),
        ),
        (
            "model_us",
            (with.model_time.as_secs_f64() / passes * 1e6).into(),
        ),
        ("accepted_at", format!("{positions:?}").into()),
    ]
}

/// Speed-ups by what was measured and its depth, each a line over batches.
#[derive(Default)]
pub struct Curves(Vec<Panel>);

impl Curves {
    fn add(&mut self, name: &str, depth: &str, batch: usize, speedup: f64) {
        let title = format!("{name}: speed-up");
        let at = self.0.iter().position(|panel| panel.up == title);
        let at = at.unwrap_or_else(|| {
            self.0.push(Panel {
                across: "sequences at once".to_owned(),
                up: title,
                logarithmic: true,
                curves: Vec::new(),
            });
            self.0.len() - 1
        });
        let curves = &mut self.0[at].curves;
        let name = match depth {
            "auto" => depth.to_owned(),
            depth => format!("depth {depth}"),
        };
        let point = (batch as f64, speedup);
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve {
                name,
                points: vec![point],
            }),
        }
    }

    /// A chart: a panel for each name, batches to the right by octaves, speed-up upwards.
    pub fn svg(self, title: &str) -> String {
        let chart = Chart {
            title: title.to_owned(),
            panels: self.0,
        };
        chart.svg()
    }
}
