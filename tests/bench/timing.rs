//! One packet through a loaded program with as little around it as possible: `BPF_PROG_TEST_RUN` without maps of aya's,
//! and with the packet copied out only where it is wanted.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::libc;

/// What the program is told of the packet: the words of `struct __sk_buff` (uapi/linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SkBuff {
    words: [u32; 48],
}

const INGRESS_IFINDEX: usize = 9;
const IFINDEX: usize = 10;

impl SkBuff {
    /// A packet at the device with this index that came in through `ingress`.
    pub(crate) fn at(device: u32, ingress: u32) -> Self {
        let mut words = [0; 48];
        words[IFINDEX] = device;
        words[INGRESS_IFINDEX] = ingress;
        Self { words }
    }
}

/// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` reads and writes.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// Room for what a program adds to a packet.
const HEADROOM: usize = 256;

/// Runs a program once in this thread's network namespace; its nanoseconds as the kernel counts them, and the packet as
/// the program left it if `out` wants it.
pub(crate) fn run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    at: &SkBuff,
    expected: i32,
    out: Option<&mut Vec<u8>>,
) -> Result<u32> {
    let mut attributes = TestRun {
        program: u32::try_from(program.as_raw_fd())?,
        data_size_in: u32::try_from(packet.len())?,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ctx_size_in: u32::try_from(size_of::<SkBuff>())?,
        ctx_in: std::ptr::from_ref(at) as u64,
        ..TestRun::default()
    };
    if let Some(out) = out {
        out.resize(packet.len() + HEADROOM, 0);
        attributes.data_out = out.as_mut_ptr() as u64;
        attributes.data_size_out = u32::try_from(out.len())?;
        bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
        out.truncate(attributes.data_size_out as usize);
    } else {
        bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
    }
    let verdict = attributes.verdict.cast_signed();
    ensure!(verdict == expected, "the program returned {verdict} instead of {expected}");
    Ok(attributes.duration)
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    rest: [u64; 14],
}

/// A program that returns 0 at once: what it takes is the overhead of a test run.
pub(crate) fn empty_program() -> Result<OwnedFd> {
    // r0 = 0; exit
    let code: [u64; 2] = [0xb7, 0x95];
    let mut attributes = Load {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attributes)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_int> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` of the length given, and the addresses in it are those of
    // buffers that outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("bpf(2), command {command}"));
    }
    Ok(libc::c_int::try_from(result)?)
}
