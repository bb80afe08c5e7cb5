//! Session affinity.
//!
//! Must not know how it is kept.

use super::field::Report;
use crate::model::ServiceObject;

/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent.
const DEFAULT_SECONDS: u32 = 10_800;
/// The API's upper bound: one day.
const MAX_SECONDS: u32 = 86_400;

/// The affinity time-out in seconds, 0 for none. A time-out outside 1..=86400 counts as absent, and an unknown kind of
/// affinity as `None`, each with a warning.
pub(super) fn affinity_seconds(service: &ServiceObject, report: &mut Report<'_>) -> u32 {
    match service.session_affinity.as_str() {
        "" | "None" => 0,
        "ClientIP" => service.affinity_seconds.map_or(DEFAULT_SECONDS, |seconds| bounded(seconds, report)),
        other => {
            let message = format!("unknown affinity `{other}`, so there is none: use ClientIP or None");
            report.invalid("spec.sessionAffinity", message);
            0
        }
    }
}

fn bounded(seconds: i32, report: &mut Report<'_>) -> u32 {
    if let Ok(seconds @ 1..=MAX_SECONDS) = u32::try_from(seconds) {
        return seconds;
    }
    let message = format!("{seconds} is not allowed, so {DEFAULT_SECONDS} is used: use 1 to {MAX_SECONDS}");
    report.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", message);
    DEFAULT_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_is_bounded_by_a_second_and_a_day() {
        let cases = [
            ("", None, 0, 0),
            ("None", Some(100), 0, 0),
            ("ClientIP", None, 10_800, 0),
            ("ClientIP", Some(1), 1, 0),
            ("ClientIP", Some(65_536), 65_536, 0),
            ("ClientIP", Some(86_400), 86_400, 0),
            ("ClientIP", Some(0), 10_800, 1),
            ("ClientIP", Some(-5), 10_800, 1),
            ("ClientIP", Some(86_401), 10_800, 1),
            ("Cookie", Some(100), 0, 1),
        ];
        for (kind, seconds, wanted, wanted_warnings) in cases {
            let service = ServiceObject {
                session_affinity: kind.to_owned(),
                affinity_seconds: seconds,
                ..ServiceObject::default()
            };
            let mut warnings = Vec::new();
            let found = affinity_seconds(&service, &mut Report::new("Service", &service.name, &mut warnings));
            assert_eq!((found, warnings.len()), (wanted, wanted_warnings), "{kind} {seconds:?}");
        }
    }
}
