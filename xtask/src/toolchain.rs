//! The compiler for the eBPF object: which are here, which one serves, and installing one.
//!
//! The target bpfel-unknown-none has no precompiled `core`, so a compiler must come with its own library
//! sources, accept unstable options, and be matched by a bpf-linker with an LLVM no older than its own.

use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::linker::{self, Linker};
use crate::packages;
use crate::process;
use crate::workspace::Workspace;

/// Debian's newer compiler, kept current there for the sake of browsers, with its library sources.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Debian's clippy for that compiler.
pub(crate) const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// aya-ebpf and edition 2024 need no older compiler than this.
const OLDEST_RELEASE: (u32, u32) = (1, 87);

/// Where a compiler comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// rustup's toolchain named `nightly`.
    RustupNightly,
    /// The distribution's packages in /usr.
    Distribution,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::RustupNightly => "rustup nightly",
            Self::Distribution => "distribution's rustc",
        }
    }
}

/// One installed compiler, usable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) origin: Origin,
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    release: (u32, u32),
    llvm: u32,
    has_sources: bool,
}

impl Compiler {
    /// Why it cannot compile for eBPF, apart from the linker.
    fn flaw(&self) -> Option<String> {
        if self.release < OLDEST_RELEASE {
            let ((major, minor), (least_major, least_minor)) = (self.release, OLDEST_RELEASE);
            return Some(format!("version {major}.{minor} is older than {least_major}.{least_minor}"));
        }
        (!self.has_sources).then(|| "library sources (rust-src) are missing".to_owned())
    }
}

/// A compiler and a linker that fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

/// What is installed.
#[derive(Debug)]
struct Survey {
    /// In order of preference.
    compilers: Vec<Compiler>,
    linkers: Vec<Linker>,
}

/// Finds a toolchain, installing what is missing when that is allowed.
///
/// # Errors
/// Says exactly what to install when nothing serves.
pub(crate) fn find_or_install(workspace: &Workspace) -> Result<Toolchain> {
    let survey = Survey::of_this_machine(workspace);
    if let Some(toolchain) = survey.choose() {
        return Ok(toolchain);
    }
    if !packages::may_install() {
        bail!(survey.instructions());
    }
    install(workspace, &survey).with_context(|| survey.instructions())?;
    let now = Survey::of_this_machine(workspace);
    now.choose().with_context(|| now.instructions())
}

fn install(workspace: &Workspace, survey: &Survey) -> Result<()> {
    if let Some(compiler) = survey.only_lacks_linker() {
        return linker::install(workspace, compiler.llvm);
    }
    if let Some(missing) = DEBIAN_PACKAGES.iter().find(|package| !packages::available(package)) {
        bail!("apt offers no package {missing}");
    }
    packages::install(&DEBIAN_PACKAGES)?;
    let survey = Survey::of_this_machine(workspace);
    match survey.only_lacks_linker() {
        Some(compiler) if survey.choose().is_none() => linker::install(workspace, compiler.llvm),
        _ => Ok(()),
    }
}

impl Survey {
    fn of_this_machine(workspace: &Workspace) -> Self {
        let compilers = [rustup_nightly(), distribution()].into_iter().flatten().collect();
        Self { compilers, linkers: linker::survey(workspace) }
    }

    /// The first compiler without a flaw that has a fitting linker.
    fn choose(&self) -> Option<Toolchain> {
        self.flawless().find_map(|compiler| {
            let linker = self.linkers.iter().find(|linker| linker.reads(compiler.llvm))?;
            Some(Toolchain { compiler: compiler.clone(), linker: linker.clone() })
        })
    }

    fn flawless(&self) -> impl Iterator<Item = &Compiler> {
        self.compilers.iter().filter(|compiler| compiler.flaw().is_none())
    }

    /// A compiler that would serve if a linker were built for it, which needs apt to offer its LLVM.
    fn only_lacks_linker(&self) -> Option<&Compiler> {
        self.flawless().find(|compiler| {
            linker::build_packages(compiler.llvm).iter().all(|package| packages::available(package))
        })
    }

    /// What is here, and what a person has to install.
    fn instructions(&self) -> String {
        let mut text = "no toolchain here can build the eBPF object. Found:\n".to_owned();
        for compiler in &self.compilers {
            let verdict = compiler.flaw().unwrap_or_else(|| format!("usable, writes LLVM {}", compiler.llvm));
            let _ = writeln!(text, "  {} ({}): {verdict}", compiler.origin.name(), compiler.rustc.display());
        }
        for linker in &self.linkers {
            let llvm =
                linker.llvm.map_or_else(|| "an unknown LLVM".to_owned(), |llvm| format!("LLVM {llvm}"));
            let _ = writeln!(text, "  bpf-linker ({}): reads {llvm} and older", linker.path.display());
        }
        if self.compilers.is_empty() && self.linkers.is_empty() {
            text.push_str("  nothing\n");
        }
        let llvm = self.flawless().next().map_or(22, |compiler| compiler.llvm);
        let build = linker::build_packages(llvm).join(" ");
        let debian = DEBIAN_PACKAGES.join(" ");
        let command = linker::install_command(llvm);
        let _ = write!(
            text,
            "Install either of these and run the command again (as root on Debian it installs the second by itself):\n\
             (a) anywhere, with rustup:\n\
             \x20   rustup toolchain install nightly --component rust-src\n\
             \x20   cargo install bpf-linker     # needs the headers of LLVM, of nightly's version or newer\n\
             (b) Debian 12 or newer, as root:\n\
             \x20   apt-get update && apt-get install -y {debian} {build}\n\
             \x20   {command}"
        );
        text
    }
}

/// rustup's nightly, if rustup says that it is installed: asking for one that is not could download it.
fn rustup_nightly() -> Option<Compiler> {
    let rustup = process::find_in_path("rustup")?;
    let list = process::probe(&rustup, &["toolchain", "list"])?;
    if !list.lines().any(|line| line.starts_with("nightly-")) {
        return None;
    }
    let which = |program: &str| {
        let path = process::probe(&rustup, &["which", "--toolchain", "nightly", program])?;
        Some(PathBuf::from(path.trim()))
    };
    examine(Origin::RustupNightly, which("cargo")?, which("rustc")?)
}

fn distribution() -> Option<Compiler> {
    examine(Origin::Distribution, "/usr/bin/cargo".into(), "/usr/bin/rustc".into())
}

fn examine(origin: Origin, cargo: PathBuf, rustc: PathBuf) -> Option<Compiler> {
    if !process::is_executable(&cargo) || is_rustup_proxy(&rustc) {
        return None;
    }
    let (release, llvm) = parse_version(&process::probe(&rustc, &["-vV"])?)?;
    let sysroot = process::probe(&rustc, &["--print", "sysroot"])?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    Some(Compiler { origin, cargo, rustc, release, llvm, has_sources: sources.exists() })
}

/// rustup packaged by a distribution puts its proxies into /usr/bin: they are no compiler.
fn is_rustup_proxy(rustc: &Path) -> bool {
    rustc.canonicalize().is_ok_and(|real| real.file_name().is_some_and(|name| name == "rustup"))
}

/// Release (major, minor) and LLVM major version from `rustc -vV`.
fn parse_version(text: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let numbers = |version: &str| {
        let mut parts = version.trim().split(['.', '-']).map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    Some((numbers(field("release: ")?)?, numbers(field("LLVM version: ")?)?.0))
}

/// The unstable options that the eBPF build uses are accepted by a stable compiler only with this set.
pub(crate) const BOOTSTRAP: (&str, &str) = ("RUSTC_BOOTSTRAP", "1");

/// cargo's home, whose registry sources appear in debug information.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(origin: Origin, llvm: u32, has_sources: bool) -> Compiler {
        let (cargo, rustc) = (PathBuf::from("cargo"), PathBuf::from("rustc"));
        Compiler { origin, cargo, rustc, release: (1, 96), llvm, has_sources }
    }

    fn linker(llvm: u32) -> Linker {
        Linker { path: PathBuf::from(format!("bpf-linker-{llvm}")), llvm: Some(llvm) }
    }

    fn chosen(compilers: Vec<Compiler>, linkers: Vec<Linker>) -> Option<(Origin, Option<u32>)> {
        Survey { compilers, linkers }.choose().map(|it| (it.compiler.origin, it.linker.llvm))
    }

    #[test]
    fn nightly_with_sources_and_a_fitting_linker_comes_first() {
        let both = vec![compiler(Origin::RustupNightly, 22, true), compiler(Origin::Distribution, 22, true)];
        assert_eq!(chosen(both, vec![linker(22)]), Some((Origin::RustupNightly, Some(22))));
    }

    #[test]
    fn nightly_without_sources_gives_way_to_the_distribution() {
        let both = vec![compiler(Origin::RustupNightly, 22, false), compiler(Origin::Distribution, 22, true)];
        assert_eq!(chosen(both, vec![linker(22)]), Some((Origin::Distribution, Some(22))));
    }

    #[test]
    fn a_compiler_newer_than_every_linker_is_passed_over() {
        let both = vec![compiler(Origin::RustupNightly, 23, true), compiler(Origin::Distribution, 22, true)];
        assert_eq!(chosen(both.clone(), vec![linker(22)]), Some((Origin::Distribution, Some(22))));
        assert_eq!(chosen(both, vec![linker(21)]), None);
    }

    #[test]
    fn among_several_linkers_the_first_that_fits_is_taken() {
        let nightly = vec![compiler(Origin::RustupNightly, 22, true)];
        assert_eq!(
            chosen(nightly, vec![linker(21), linker(23), linker(22)]),
            Some((Origin::RustupNightly, Some(23)))
        );
    }

    #[test]
    fn an_old_compiler_is_refused_whatever_it_brings() {
        let old = Compiler { release: (1, 63), ..compiler(Origin::Distribution, 14, true) };
        assert_eq!(chosen(vec![old], vec![linker(22)]), None);
    }

    #[test]
    fn version_and_llvm_are_read_from_stable_and_nightly_texts() {
        let stable = "rustc 1.96.0 (ac68)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(stable), Some(((1, 96), 22)));
        let nightly = "rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 23.0.0\n";
        assert_eq!(parse_version(nightly), Some(((1, 97), 23)));
        assert_eq!(parse_version("rustc 1.0"), None);
    }

    #[test]
    fn the_instructions_say_what_is_wrong_and_name_every_package() {
        let survey = Survey { compilers: vec![compiler(Origin::RustupNightly, 22, false)], linkers: vec![] };
        let text = survey.instructions();
        assert!(text.contains("rustup nightly (rustc): library sources (rust-src) are missing"), "{text}");
        for package in DEBIAN_PACKAGES.iter().chain(&["llvm-22-dev", "libclang-22-dev", "libpolly-22-dev"]) {
            assert!(text.contains(package), "{package}");
        }
    }
}
