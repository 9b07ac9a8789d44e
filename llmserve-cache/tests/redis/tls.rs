//! A server that speaks TLS only, with a certificate of this test's own authority.

use std::path::Path;
use std::process::Command;

use crate::rig::{Host, Server, eventually, free_port, quick};

/// What `openssl` makes in `folder`: an authority, and a certificate for 127.0.0.1.
fn certificates(folder: &Path) -> bool {
    let openssl = |arguments: &str| {
        let ran = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    let made = openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
         -subj /CN=authority -keyout ca.key -out ca.pem",
    ) && openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server \
         -keyout key.pem -out request.pem",
    ) && openssl(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile names -out cert.pem",
    );
    if !made {
        use std::io::Write;
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: openssl makes no certificates here, so nobody has tried TLS"
        );
    }
    made
}

#[test]
fn answers_are_shared_over_tls_with_whom_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    if !certificates(folder.path()) {
        return;
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let port = free_port();
    let Some(_server) = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("cert.pem"),
        "--tls-key-file",
        &file("key.pem"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]) else {
        return;
    };
    let url = format!("rediss://127.0.0.1:{port}");
    let authority = std::fs::read(file("ca.pem")).unwrap();
    let host = Host::of(quick(&url).root_certificate(authority));
    host.connected();
    host.ask("1");
    host.flushed();
    assert_eq!(host.runs_of([1]), 0);
    // Nobody vouches for it here.
    let stranger = Host::of(quick(&url));
    eventually("refused", || stranger.store.last_error().is_some());
    assert_eq!(stranger.runs_of([1]), 1);
    assert!(!stranger.store.is_connected());
}
