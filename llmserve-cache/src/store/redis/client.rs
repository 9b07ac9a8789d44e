//! A server, or a cluster of them: what can be connected to, and a connection.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisFuture,
    RedisResult, TlsCertificates, Value,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::RedisBuildError;

/// Redirections that one command follows in a cluster, and tries on another connection.
const CLUSTER_RETRIES: u32 = 3;

/// Commands on one connection that wait for their answers, before the next wait to be sent.
const IN_FLIGHT: usize = 1_024;

pub(super) enum Source {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// What of the builder's settings a connection needs.
pub(super) struct Terms {
    pub(super) cluster: bool,
    /// For connecting, and for commands that nobody waits for.
    pub(super) patience: Duration,
    /// For a lookup.
    pub(super) limit: Duration,
    pub(super) root_certificate: Option<Vec<u8>>,
}

impl Source {
    pub(super) fn new(urls: &[String], terms: Terms) -> Result<Self, RedisBuildError> {
        let mut nodes = Vec::with_capacity(urls.len());
        for (position, url) in urls.iter().enumerate() {
            // The parser's own words may repeat parts of the address.
            let node = (url.as_str().into_connection_info())
                .map_err(|_| RedisBuildError::Url { position })?;
            if host(&node).is_some_and(str::is_empty) {
                return Err(RedisBuildError::Url { position });
            }
            nodes.push(node);
        }
        let Some(first) = nodes.first().cloned() else {
            return Err(RedisBuildError::Setting {
                setting: "url",
                given: "missing".to_owned(),
                least: "one",
            });
        };
        if nodes.iter().any(uses_tls) {
            // Rustls takes the process's choice of cryptography. Where the host has made one, this
            // does nothing.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        if let Some(pem) = &terms.root_certificate {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let none = match read {
                Ok(read) if read.is_empty() => Some("there is none in it".to_owned()),
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = none {
                return Err(RedisBuildError::Certificate(reason));
            }
        }
        let certificates = terms.root_certificate.map(|pem| TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        });
        if nodes.len() == 1 && !terms.cluster {
            return match certificates {
                Some(certificates) if uses_tls(&first) => {
                    Client::build_with_tls(first, certificates)
                }
                _ => Client::open(first),
            }
            .map(|client| Source::One(Box::new(client)))
            .map_err(|error| RedisBuildError::Certificate(error.to_string()));
        }
        let certified = certificates.is_some();
        let mut builder = ClusterClientBuilder::new(nodes)
            .connection_timeout(terms.patience)
            .response_timeout(terms.patience.max(terms.limit))
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(10)
            .max_retry_wait(100);
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates);
        }
        let built = builder.build();
        built
            .map(|client| Source::Cluster(Box::new(client)))
            .map_err(|error| {
                let said = error.to_string();
                match certified {
                    true => RedisBuildError::Certificate(said),
                    false => RedisBuildError::Nodes(said),
                }
            })
    }

    /// Within a tokio runtime, which from then on serves the connection.
    pub(super) async fn connect(&self, patience: Duration) -> RedisResult<Connection> {
        match self {
            Source::One(client) => {
                // Commands have limits of their own, as not all have the same.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(patience))
                    .set_response_timeout(None)
                    .set_pipeline_buffer_size(IN_FLIGHT);
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                connection.await.map(Connection::One)
            }
            Source::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }
}

fn uses_tls(node: &ConnectionInfo) -> bool {
    matches!(node.addr(), redis::ConnectionAddr::TcpTls { .. })
}

/// None: a socket's path.
fn host(node: &ConnectionInfo) -> Option<&str> {
    match node.addr() {
        redis::ConnectionAddr::Tcp(host, _) => Some(host),
        redis::ConnectionAddr::TcpTls { host, .. } => Some(host),
        _ => None,
    }
}

/// Cheap to clone: commands of all clones go out in one stream, those that are there together in
/// one packet, and the answers find their askers.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        // What the server says no with is a value until it is asked for its error.
        self.req_packed_command(command).await?.extract_error()
    }

    /// A cluster's connection finds new nodes by itself.
    pub(super) fn heals_itself(&self) -> bool {
        matches!(self, Connection::Cluster(_))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::One(one) => one.req_packed_command(command),
            Connection::Cluster(cluster) => cluster.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::One(one) => one.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::One(one) => one.get_db(),
            Connection::Cluster(cluster) => cluster.get_db(),
        }
    }
}
