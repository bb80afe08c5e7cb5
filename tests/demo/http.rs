//! A small HTTP server and client, and the chart of who answered.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sheave_tests::netns::Netns;

/// Serves `GET /` with the pod's name until the process ends.
///
/// # Errors
/// The address is not there.
pub(crate) fn serve(netns: &Netns, name: &str, address: SocketAddr) -> Result<()> {
    let listener =
        netns.run(|| TcpListener::bind(address)).with_context(|| format!("pod {name}: {address}"))?;
    let body =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}\n", name.len() + 1);
    netns.spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up early is its own loss.
            let _ = reply(stream, &body);
        }
    })?;
    Ok(())
}

fn reply(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = [0; 512];
    let _ = stream.read(&mut request)?;
    stream.write_all(body.as_bytes())
}

/// One request; the name of the pod that answered.
///
/// # Errors
/// What a program would see.
pub(crate) fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim_end().to_owned());
    body.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
}

/// Asks `times` times and counts who answered.
///
/// # Errors
/// A request failed.
pub(crate) fn count(address: SocketAddr, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(get(address)?).or_default() += 1;
    }
    Ok(counts)
}

/// Prints a bar for each pod.
pub(crate) fn chart(counts: &BTreeMap<String, usize>) {
    let most = counts.values().copied().max().unwrap_or(1).max(1);
    for (pod, count) in counts {
        println!("   pod {pod}  {:<40} {count}", "█".repeat(count * 40 / most));
    }
}
