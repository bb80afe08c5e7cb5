//! Tells bpf-linker to let LLVM write small areas with plain stores.
//!
//! Its default keeps the loads and stores of a copy in pairs, for the code generators of old network cards; the price is
//! that each zeroed byte becomes a round of a loop in a function, at run time and for the verifier.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}
