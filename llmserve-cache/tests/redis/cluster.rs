//! Three primaries and three replicas of the same program.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use llmserve_cache::Scope;
use llmserve_cache::Store;

use crate::faults::{Load, recovers};
use crate::rig::{Host, Server, eventually, free_port, quick};

struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    fn start() -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let bus = free_port().to_string();
            nodes.push(Server::start(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "1000",
                "--cluster-require-full-coverage",
                "no",
                "--cluster-replica-validity-factor",
                "0",
                "--repl-diskless-sync-delay",
                "0",
            ])?);
        }
        let address = |node: &Server| format!("127.0.0.1:{}", node.port);
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(address))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli comes with redis-server");
        let said = String::from_utf8_lossy(&made.stdout);
        assert!(made.status.success(), "{said}");
        let cluster = Self { nodes };
        eventually("a cluster with replicas", || {
            cluster.nodes.iter().all(|node| {
                let info: String = node.ask(&["CLUSTER", "INFO"]);
                let replication: String = node.ask(&["INFO", "replication"]);
                info.contains("cluster_state:ok")
                    && (replication.contains("state=online")
                        || replication.contains("master_link_status:up"))
            })
        });
        Some(cluster)
    }
}

#[test]
fn a_primary_that_fails_costs_hits_and_no_answers() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let urls: Vec<String> = cluster.nodes.iter().map(Server::url).collect();
    let mut builder = quick(&urls[0])
        .time_limit(Duration::from_millis(500))
        .connect_timeout(Duration::from_secs(2));
    for url in &urls[1..] {
        builder = builder.node(url);
    }
    let host = Arc::new(Host::of(builder));
    host.connected();
    recovers(&host, 60);
    let on = |node: &Server| node.ask::<usize>(&["DBSIZE"]);
    assert!(cluster.nodes[..3].iter().all(|node| on(node) > 1), "spread");
    // One node is enough to find the others, and a second host.
    let other = Host::of(quick(&urls[4]).cluster(true));
    other.connected();
    assert_eq!(other.runs_of(0..60), 0);

    let load = Load::on(&host, 60);
    load.pass(200);
    cluster.nodes[0].kill();
    load.pass(200);
    eventually("failed over", || {
        let roles = cluster.nodes[3..].iter();
        roles
            .map(|node| node.ask::<String>(&["INFO", "replication"]))
            .any(|info| info.contains("role:master"))
    });
    load.pass(200);
    load.end();
    recovers(&host, 60);
    recovers(&other, 60);
    host.cached.invalidate(&Scope::All);
    let stamp = || host.store.epochs().stamp([]);
    eventually("heard", || other.store.epochs().stamp([]) == stamp());
}
