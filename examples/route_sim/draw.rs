//! Reports as a drawing.

use llmserve::route::simulation::{Report, Sample};
use llmserve_examples::plot::{Chart, Curve, Panel};

/// Times to first token above, then throughput and hits over time; a curve for each policy.
pub fn chart(reports: &[(String, Report)], title: String) -> Chart {
    let curves = |points: &dyn Fn(&Report) -> Vec<(f64, f64)>| {
        let curve = |(name, report): &(String, Report)| Curve {
            name: name.clone(),
            points: points(report),
        };
        reports.iter().map(curve).collect::<Vec<_>>()
    };
    let over_time = |up: &str, value: fn(&Sample) -> f64| Panel {
        across: "seconds".to_owned(),
        up: up.to_owned(),
        logarithmic: false,
        curves: curves(&|report| {
            let samples = report.timeline.iter();
            samples
                .map(|sample| (sample.seconds, value(sample)))
                .collect()
        }),
    };
    let shares = |report: &Report| {
        let quantiles = report.ttft_quantiles_ms.iter().enumerate();
        quantiles
            .map(|(at, ms)| (*ms, at as f64 / 100.0))
            .collect::<Vec<_>>()
    };
    Chart {
        title,
        panels: vec![
            Panel {
                across: "milliseconds to the first token".to_owned(),
                up: "share that took no longer".to_owned(),
                logarithmic: true,
                curves: curves(&shares),
            },
            over_time("requests a second", |sample| sample.throughput_rps),
            over_time("hit rate", |sample| sample.hit_rate),
        ],
    }
}
