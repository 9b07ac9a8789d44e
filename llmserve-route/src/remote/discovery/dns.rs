//! All addresses of a name, as a headless service has one for each of its pods.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Url;
use tokio::net::lookup_host;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::{Change, Found, Watch, changes};
use crate::remote::runtime::Runtime;

/// How often a name is looked up unless said otherwise.
const EVERY: Duration = Duration::from_secs(10);

/// A URL that names no host to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address has no host and port that could be looked up")]
pub struct DnsError;

/// One endpoint for each address of a host's name.
#[derive(Clone, Debug)]
pub struct Dns {
    base_url: String,
    host: String,
    port: u16,
    every: Duration,
}

impl Dns {
    /// Looks up the host of `base_url`, such as `http://model.default.svc:8000/v1`.
    ///
    /// # Errors
    /// [`DnsError`].
    pub fn new(base_url: impl Into<String>) -> Result<Self, DnsError> {
        let base_url = base_url.into();
        let url = Url::parse(&base_url).map_err(|_| DnsError)?;
        let host = url.host_str().ok_or(DnsError)?.to_owned();
        let port = url.port_or_known_default().ok_or(DnsError)?;
        Ok(Self {
            base_url,
            host,
            port,
            every: EVERY,
        })
    }

    /// How long after one look the next is taken; 10 s by default.
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval;
        self
    }

    /// The endpoints there are now. For a task of a tokio runtime.
    ///
    /// # Errors
    /// The resolver's.
    pub async fn look_up(&self) -> io::Result<BTreeSet<Found>> {
        // An IPv6 address is in brackets in a URL, and without them here.
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = lookup_host((host, self.port)).await?;
        Ok(addresses.map(|address| self.found(address)).collect())
    }

    /// Looks again and again, and tells `changed` what is different, the first time what there is
    /// at all. On `runtime`, or on a thread of its own. A look that fails changes nothing: a
    /// resolver that is down takes no endpoint away.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn watch(
        self,
        runtime: Option<Handle>,
        changed: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> io::Result<Watch> {
        let every = self.every;
        let task = look(
            move || {
                let dns = self.clone();
                async move { dns.look_up().await }
            },
            every,
            changed,
        );
        Watch::start(Runtime::new(runtime), task)
    }

    fn found(&self, address: SocketAddr) -> Found {
        Found {
            name: address.to_string(),
            base_url: self.base_url.clone(),
            address: Some(address),
        }
    }
}

async fn look<F>(
    mut look_up: impl FnMut() -> F,
    every: Duration,
    mut changed: impl FnMut(Vec<Change>),
) where
    F: Future<Output = io::Result<BTreeSet<Found>>>,
{
    let mut before = BTreeSet::new();
    loop {
        if let Ok(now) = look_up().await {
            let different = changes(&before, &now);
            if !different.is_empty() {
                changed(different);
            }
            before = now;
        }
        sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    }

    #[test]
    fn a_look_that_fails_changes_nothing() {
        let set = |names: &[&str]| names.iter().map(|name| Found::at(*name)).collect();
        let (a, b) = (Found::at("a"), Found::at("b"));
        let mut script = vec![
            Ok(set(&["a"])),
            Err(io::ErrorKind::TimedOut.into()),
            Ok(set(&["a"])),
            Ok(set(&["b"])),
            Ok(set(&[])),
        ]
        .into_iter();
        let (sender, told) = channel();
        let task = look(
            move || {
                let next: Option<io::Result<BTreeSet<Found>>> = script.next();
                async move {
                    match next {
                        Some(next) => next,
                        None => std::future::pending().await,
                    }
                }
            },
            Duration::ZERO,
            move |changes| drop(sender.send(changes)),
        );
        runtime().block_on(async {
            let _ = tokio::time::timeout(Duration::from_millis(100), task).await;
        });
        let told: Vec<_> = told.into_iter().collect();
        let expected = [
            vec![Change::Added(a.clone())],
            vec![Change::Removed(a), Change::Added(b.clone())],
            vec![Change::Removed(b)],
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn every_address_of_a_name() {
        let dns = Dns::new("http://localhost:81/v1").expect("a host");
        let (sender, told) = channel();
        let watch = dns
            .clone()
            .watch(None, move |changes| drop(sender.send(changes)));
        let changes = told.recv().expect("it is told");
        drop(watch.expect("a thread"));
        // Dropped, it tells nobody any more.
        assert!(told.recv().is_err());
        let found = runtime().block_on(dns.look_up()).expect("it resolves");
        let expected: Vec<_> = found.iter().cloned().map(Change::Added).collect();
        assert_eq!(changes, expected);
        assert!(found.iter().all(|found| {
            let address = found.address.expect("an address");
            address.ip().is_loopback() && address.port() == 81
        }));
        let ip = Dns::new("http://[::1]/v1").expect("an address");
        let found = runtime().block_on(ip.look_up()).expect("it is one");
        assert_eq!(found.first().expect("one").name, "[::1]:80");
        for url in ["", "model:8000", "data:x"] {
            assert!(Dns::new(url).is_err(), "{url}");
        }
    }
}
