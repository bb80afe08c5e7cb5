//! How many instructions the verifier walks for each program: exact, and the limit is one million.

use anyhow::Result;
use sheave_tests::lab::Lab;
use sheave_tests::plane::{Host, Plane};

pub(crate) fn run() -> Result<()> {
    println!(
        "\n## verifier\n\n| program | instructions walked | share of the limit |\n| --- | ---: | ---: |"
    );
    let (host, lab) = (Host::new()?, Lab::new()?);
    let mut plane = Plane::open(&host, &lab)?;
    for monitor in [false, true] {
        plane.data.set_monitor(monitor)?;
        for program in plane.data.programs()? {
            let walked = program.verified_instructions.unwrap_or_default();
            let variant = if monitor { " (monitoring)" } else { "" };
            println!("| {}{variant} | {walked} | {:.2} % |", program.name, f64::from(walked) / 1e4);
        }
    }
    Ok(())
}
