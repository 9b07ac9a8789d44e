//! How busy an endpoint says it is: from its `/metrics`, in Prometheus' text format.

use llmserve_core::{Error, Time};
use reqwest::Url;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::endpoint::RemoteEndpoint;
use super::fault::{transport, upstream};
use crate::health::Probe;

/// Metrics are at most this long, in bytes.
const LONGEST: usize = 8 << 20;

/// What an engine reports about itself. A signal it does not give is none, and not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Scrape {
    /// Requests being computed.
    pub running: Option<f64>,
    /// Requests that wait for it.
    pub waiting: Option<f64>,
    /// The part of its KV cache that is in use, in 0..=1.
    pub kv_usage: Option<f64>,
}

/// Names of the same thing at vLLM (now and before), here, at SGLang and at llama.cpp.
const RUNNING: &[&str] = &[
    "vllm:num_requests_running",
    "llmserve_num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
];
const WAITING: &[&str] = &[
    "vllm:num_requests_waiting",
    "llmserve_num_requests_waiting",
    "sglang:num_queue_reqs",
    "llamacpp:requests_deferred",
];
const KV_USAGE: &[&str] = &[
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "llmserve_kv_cache_usage_ratio",
    "sglang:token_usage",
    "llamacpp:kv_cache_usage_ratio",
];

impl Scrape {
    /// The signals in `text`; those of several engines behind one address are added up, and their
    /// KV usage is averaged.
    ///
    /// ```
    /// use llmserve_route::remote::Scrape;
    /// let scrape = Scrape::parse("vllm:num_requests_running{model_name=\"m\"} 3.0\n");
    /// assert_eq!((scrape.running, scrape.waiting), (Some(3.0), None));
    /// ```
    pub fn parse(text: &str) -> Self {
        let (mut running, mut waiting, mut usage) = (Found::new(), Found::new(), Found::new());
        for line in text.lines() {
            let Some((name, value)) = sample(line) else {
                continue;
            };
            running.add(RUNNING, name, value);
            waiting.add(WAITING, name, value);
            usage.add(KV_USAGE, name, value);
        }
        Self {
            running: running.sum(),
            waiting: waiting.sum(),
            kv_usage: usage.mean(),
        }
    }
}

/// Samples of one signal, under the first of its names that has any.
struct Found {
    rank: usize,
    sum: f64,
    count: f64,
}

impl Found {
    fn new() -> Self {
        Self {
            rank: usize::MAX,
            sum: 0.0,
            count: 0.0,
        }
    }

    fn add(&mut self, names: &[&str], name: &str, value: f64) {
        let Some(rank) = names.iter().position(|known| *known == name) else {
            return;
        };
        if rank < self.rank {
            *self = Self {
                rank,
                ..Self::new()
            };
        }
        if rank == self.rank {
            self.sum += value;
            self.count += 1.0;
        }
    }

    fn sum(&self) -> Option<f64> {
        (self.count > 0.0).then_some(self.sum)
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

/// Name and value of a line `name{labels} value [time]`. What is no finite number is nothing.
fn sample(line: &str) -> Option<(&str, f64)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (name, rest) = match line.find('{') {
        None => line.split_once(char::is_whitespace)?,
        Some(open) => {
            // A label's value may have a brace in it, and an escaped quotation mark.
            let (mut quoted, mut escaped) = (false, false);
            let close = line[open..].find(|c: char| {
                let closes = c == '}' && !quoted;
                if c == '"' && !escaped {
                    quoted = !quoted;
                }
                escaped = c == '\\' && !escaped;
                closes
            })?;
            (&line[..open], &line[open + close + 1..])
        }
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name.trim(), value))
}

impl RemoteEndpoint {
    /// Asks the endpoint how busy it is, and gives it `limit` to say so: `GET /metrics`, at the
    /// root of its address. From any task or thread; the call itself is made where the endpoint's
    /// connections live.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Upstream`].
    pub async fn scrape(&self, limit: Time) -> Result<Scrape, Error> {
        self.get("/metrics", limit)
            .await
            .map(|text| Scrape::parse(&text))
    }

    /// Asks the endpoint whether it is there: `GET` of `path`, such as `/health`, at the root of
    /// its address, within `limit`. Any status of success is a yes.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Upstream`].
    pub async fn probe(&self, path: &str, limit: Time) -> Result<(), Error> {
        self.get(path, limit).await.map(drop)
    }

    /// A probe for [`Replica::probe`](crate::Replica::probe): asks [`path`](Self::probe), such as
    /// `/health`.
    ///
    /// ```no_run
    /// use llmserve_route::health::HealthChecks;
    /// use llmserve_route::remote::RemoteEndpoint;
    /// use llmserve_route::{Replica, Router};
    /// let rack = RemoteEndpoint::builder("rack-1", "http://10.0.0.7:8000/v1").build()?;
    /// let health = rack.health_at("/health");
    /// let router = Router::builder()
    ///     .replica(Replica::new("rack-1", rack).probe(health))
    ///     .health_checks(HealthChecks::default())
    ///     .build()?;
    /// # drop(router);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn health_at(&self, path: &str) -> impl Probe + Clone + use<> {
        let (endpoint, path) = (self.clone(), path.to_owned());
        move |limit| {
            let (endpoint, path) = (endpoint.clone(), path.clone());
            async move { endpoint.probe(&path, limit).await }
        }
    }

    async fn get(&self, path: &str, limit: Time) -> Result<String, Error> {
        let shared = self.shared.clone();
        let failed = |what: &str| upstream(&self.shared.name, None, what, None);
        let mut url: Url = shared.base.clone();
        url.set_path(path);
        let (sender, receiver) = oneshot::channel();
        let task = async move {
            let got = timeout(limit, fetch(&shared, url)).await;
            let timed_out = Error::TimedOut {
                what: "answer",
                limit,
            };
            let _ = sender.send(got.unwrap_or(Err(timed_out)));
        };
        let spawned = self.shared.runtime.spawn(task);
        spawned.map_err(|_| failed("no thread could be started for its connections"))?;
        let got = receiver.await;
        got.map_err(|_| failed("its connections' runtime was shut down"))?
    }
}

async fn fetch(shared: &super::endpoint::Shared, url: Url) -> Result<String, Error> {
    let name = &shared.name;
    let broken = |error: reqwest::Error| transport(name, &error, shared.timeouts.connect);
    let request = shared.client.get(url).headers(shared.headers.clone());
    let mut response = request.send().await.map_err(broken)?;
    let status = response.status();
    if !status.is_success() {
        let after = super::retry_after::retry_after(response.headers());
        let code = Some(status.as_u16());
        return Err(upstream(name, code, "it did not say how it is", after));
    }
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(broken)? {
        if body.len() + bytes.len() > LONGEST {
            return Err(upstream(name, None, "its metrics have no end", None));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_every_shape() {
        for (line, expected) in [
            ("a 1", Some(("a", 1.0))),
            ("a{} 1 17000", Some(("a", 1.0))),
            ("a{m=\"x}\\\"} 2\",n=\"\"} 3.5", Some(("a", 3.5))),
            ("a 1e-3", Some(("a", 1e-3))),
            ("a NaN", None),
            ("a +Inf", None),
            ("# HELP a b", None),
            ("a{m=\"x\" 3", None),
            ("", None),
            ("a", None),
        ] {
            assert_eq!(sample(line), expected, "{line}");
        }
    }

    #[test]
    fn several_engines_and_several_names() {
        let text = "# TYPE vllm:num_requests_running gauge\n\
                    vllm:num_requests_running{engine=\"0\"} 3.0\n\
                    vllm:num_requests_running{engine=\"1\"} 4.0\n\
                    vllm:gpu_cache_usage_perc{engine=\"0\"} 0.9\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
                    vllm:kv_cache_usage_perc{engine=\"1\"} 0.75\n\
                    vllm:num_requests_running_total 99\n";
        let scrape = Scrape::parse(text);
        assert_eq!((scrape.running, scrape.waiting), (Some(7.0), None));
        assert_eq!(scrape.kv_usage, Some(0.5));
        assert_eq!(Scrape::parse("<html>"), Scrape::default());
    }
}
