//! One kernel under QEMU: boots it, passes on what it prints, and reads its verdict from the serial line.
//!
//! Must not know: what runs in it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::kernels::release::Kernel;

/// What the first process says at its end, before the status of the tests (`init.sh`).
const VERDICT: &str = "verdict ";

/// How long one kernel may take, in seconds, before it is ended.
const LIMIT: &str = "1800";

/// Boots the kernel with the archive as its whole file system and waits for its end.
///
/// # Errors
/// QEMU cannot be started, the kernel gives no verdict within the limit, or a test failed.
pub(super) fn boot(kernel: &Kernel, archive: &Path) -> Result<()> {
    let mut qemu = command(kernel, archive);
    eprintln!("+ qemu-system-x86_64 with kernel {}", kernel.name);
    let mut guest = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu")?;
    let serial = guest.stdout.take().context("no serial line from qemu")?;
    let mut verdict = None;
    for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        println!("{line}");
        verdict = status(&line).or(verdict);
    }
    let ended = guest.wait().context("cannot wait for qemu")?;
    match verdict {
        Some(0) => Ok(()),
        Some(code) => bail!("tests failed, the last with exit code {code}"),
        None => bail!("no verdict from {} within {LIMIT} s (qemu: {ended})", kernel.name),
    }
}

/// `timeout` ends the machine, which otherwise would outlive a test that hangs. The processor has what current ones
/// have, and the memory holds the file system besides the tests' maps.
fn command(kernel: &Kernel, archive: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", LIMIT, "qemu-system-x86_64"]);
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]);
    command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-net", "none", "-append", "console=ttyS0 quiet panic=-1"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(archive);
    command
}

/// The status of the tests, if this line tells it.
fn status(line: &str) -> Option<i32> {
    line.strip_prefix(VERDICT)?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_from_its_line_alone() {
        assert_eq!(status("verdict 0 after 12 s"), Some(0));
        assert_eq!(status("verdict 101 after 12 s"), Some(101));
        assert_eq!(status("test a_verdict ... ok"), None);
        assert_eq!(status("verdict"), None);
    }
}
