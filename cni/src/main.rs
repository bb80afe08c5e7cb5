//! `sheave-cni`: see the library.

fn main() {}
