//! A report as a drawing.

use llmserve::sched::simulation::{Distribution, Report, Sample};
use llmserve_examples::plot::{Chart, Curve, Panel};

/// Latencies above, then the batch and its memory over time.
pub fn chart(report: &Report, title: String) -> Chart {
    let over_time = |up: &str, curves: Vec<Curve>| Panel {
        across: "seconds".to_owned(),
        up: up.to_owned(),
        logarithmic: false,
        curves,
    };
    let timeline = |name: &str, value: fn(&Sample) -> f64| Curve {
        name: name.to_owned(),
        points: report
            .timeline
            .iter()
            .map(|sample| (sample.seconds, value(sample)))
            .collect(),
    };
    let latencies = vec![
        quantiles("time to first token", &report.ttft),
        quantiles("between tokens", &report.itl),
        quantiles("whole request", &report.e2e),
    ];
    Chart {
        title,
        panels: vec![
            Panel {
                across: "seconds".to_owned(),
                up: "share that took no longer".to_owned(),
                logarithmic: true,
                curves: latencies,
            },
            over_time(
                "requests",
                vec![
                    timeline("running", |sample| sample.running),
                    timeline("waiting", |sample| sample.waiting),
                ],
            ),
            over_time(
                "tokens computed a second",
                vec![timeline("tokens", |sample| sample.computed_per_s)],
            ),
            over_time(
                "share of KV blocks held",
                vec![timeline("KV blocks", |sample| sample.kv)],
            ),
        ],
    }
}

fn quantiles(name: &str, times: &Distribution) -> Curve {
    let shares = times.percentiles.iter().enumerate();
    Curve {
        name: name.to_owned(),
        points: shares
            .map(|(at, time)| (*time, at as f64 / 100.0))
            .collect(),
    }
}
