//! Reads the table of a scenario.
//!
//! Must not know: files.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Expected, Row, Translation, Transport};

/// Settings and rows of a table.
pub(super) fn table(text: &str) -> Result<(Vec<String>, Vec<Row>)> {
    let (mut settings, mut rows) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split('#').next().unwrap_or_default().trim();
        if let Some(words) = content.strip_prefix("with ") {
            settings.extend(words.split_whitespace().map(str::to_owned));
        } else if !content.is_empty() {
            rows.push(row(number, content).with_context(|| format!("line {number}: {line}"))?);
        }
    }
    ensure!(!rows.is_empty(), "no row");
    Ok((settings, rows))
}

fn row(line: usize, text: &str) -> Result<Row> {
    let (question, answer) = text.split_once(" -> ").context("no ` -> `")?;
    let (from, to) = question.split_once(" at ").context("no ` at `")?;
    let mut from: Vec<String> = from.split_whitespace().map(str::to_owned).collect();
    let only = match from.first().map(String::as_str) {
        Some("by-socket") => Some(Translation::Sockets),
        Some("by-packet") => Some(Translation::Packets),
        _ => None,
    };
    if only.is_some() {
        from.remove(0);
    }
    ensure!(!from.is_empty(), "nobody asks");
    let (to, protocols) = to.trim().split_once('/').context("no protocol")?;
    let transports = protocols.split('+').map(transport).collect::<Result<_>>()?;
    let to = to.parse().with_context(|| format!("`{to}` is no address and port"))?;
    Ok(Row { line, only, from, to, transports, expected: expected(answer)? })
}

fn transport(word: &str) -> Result<Transport> {
    match word {
        "TCP" => Ok(Transport::Tcp),
        "UDP" => Ok(Transport::Udp),
        other => bail!("no protocol `{other}`"),
    }
}

fn expected(text: &str) -> Result<Expected> {
    match text.trim() {
        "reject" => return Ok(Expected::Reject),
        "drop" => return Ok(Expected::Drop),
        _ => {}
    }
    let (kept, masqueraded) = match text.split_once("masqueraded") {
        Some((kept, masqueraded)) => (backends(kept)?, backends(masqueraded)?),
        None => (backends(text)?, BTreeSet::new()),
    };
    ensure!(!(kept.is_empty() && masqueraded.is_empty()), "no backend, `reject` or `drop`");
    Ok(Expected::Backends { kept, masqueraded })
}

fn backends(text: &str) -> Result<BTreeSet<SocketAddr>> {
    let parse = |word: &str| word.parse().with_context(|| format!("`{word}` is no backend"));
    text.split_whitespace().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_places_frontend_and_backends() {
        let text = "# a table\nwith --a 1\n\nby-packet 1c client at [fd00::1]:80/TCP+UDP -> [fd00::2]:1 masqueraded \
                    [fd00::3]:1 # so\n";
        let (settings, rows) = table(text).unwrap();
        assert_eq!(settings, ["--a", "1"]);
        let backends = |text: &str| BTreeSet::from([text.parse().unwrap()]);
        let expected =
            Expected::Backends { kept: backends("[fd00::2]:1"), masqueraded: backends("[fd00::3]:1") };
        assert_eq!(
            rows,
            [Row {
                line: 4,
                only: Some(Translation::Packets),
                from: vec!["1c".into(), "client".into()],
                to: "[fd00::1]:80".parse().unwrap(),
                transports: vec![Transport::Tcp, Transport::Udp],
                expected,
            }]
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let bad = [
            "",
            "client 10.0.0.1:1/TCP -> drop",
            "client at 10.0.0.1:1/TCP",
            "client at 10.0.0.1/TCP -> drop",
            "client at 10.0.0.1:1 -> drop",
            "client at 10.0.0.1:1/SCTP -> drop",
            "by-packet at 10.0.0.1:1/TCP -> drop",
            "client at 10.0.0.1:1/TCP -> dorp",
            "client at 10.0.0.1:1/TCP -> masqueraded",
        ];
        for text in bad {
            let error = format!("{:#}", table(text).unwrap_err());
            assert!(text.is_empty() || error.starts_with("line 1: "), "{text}: {error}");
        }
    }
}
