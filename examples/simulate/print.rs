//! A report for people.

use std::io::{Result, Write};

use llmserve::sched::simulation::{Distribution, Report};

/// Most tenants that are printed one by one.
const TENANTS: usize = 16;

pub fn report(out: &mut impl Write, report: &Report) -> Result<()> {
    let (requests, tokens) = (&report.requests, &report.tokens);
    writeln!(
        out,
        "{} requests in {:.1} s: {} finished, {} refused, {} cancelled, {} expired, {} lost",
        requests.total,
        report.seconds,
        requests.finished,
        requests.refused + requests.refused_too_long,
        requests.cancelled,
        requests.expired_waiting + requests.expired_running,
        requests.lost
    )?;
    writeln!(
        out,
        "{} steps, {:.1} requests/s, {:.0} tokens/s generated, {:.0} computed",
        report.steps,
        report.throughput.requests_per_s,
        report.throughput.generated_per_s,
        report.throughput.computed_per_s
    )?;
    writeln!(
        out,
        "prompts: {} tokens, {} cached; generated: {}; computed again: {}",
        tokens.prompt, tokens.cached, tokens.generated, tokens.recomputed
    )?;
    writeln!(
        out,
        "\n{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "mean", "p50", "p95", "p99", "max"
    )?;
    row(out, "queueing", &report.queueing)?;
    row(out, "time to first token", &report.ttft)?;
    row(out, "between tokens", &report.itl)?;
    row(out, "whole request", &report.e2e)?;
    let preempted = &report.preemptions;
    writeln!(
        out,
        "\npreemptions: {} of {} requests; each p50 {}, p99 {}, max {}",
        preempted.total, preempted.requests, preempted.p50, preempted.p99, preempted.max
    )?;
    let used = &report.utilisation;
    writeln!(
        out,
        "used: time {:.1} %, budget {:.1} %, seats {:.1} %, KV {:.1} % (peak {:.1} %)",
        100.0 * used.busy,
        100.0 * used.budget,
        100.0 * used.seats,
        100.0 * used.kv,
        100.0 * used.kv_peak
    )?;
    writeln!(out, "fairness: {:.3}", report.fairness)?;
    if report.tenants.len() > 1 {
        writeln!(out, "\ntime to first token by tenant")?;
        for tenant in report.tenants.iter().take(TENANTS) {
            let name = tenant.name.as_deref().unwrap_or("(nobody)");
            row(out, name, &tenant.ttft)?;
        }
        if let Some(more @ 1..) = report.tenants.len().checked_sub(TENANTS) {
            writeln!(out, "and {more} more")?;
        }
    }
    Ok(())
}

fn row(out: &mut impl Write, name: &str, times: &Distribution) -> Result<()> {
    let [mean, p50, p95, p99, max] =
        [times.mean, times.p50, times.p95, times.p99, times.max].map(|seconds| 1e3 * seconds);
    writeln!(
        out,
        "{name:<22}{mean:>10.1}{p50:>10.1}{p95:>10.1}{p99:>10.1}{max:>10.1}"
    )
}
