//! The bodies of the answers, byte for byte those of kube-proxy.
//!
//! Must not know what decides their values.

use std::time::SystemTime;

use proxy_core::model::ObjectName;

/// How Go prints `time.Time{}`, which stands for "never".
const NEVER: &str = "0001-01-01 00:00:00 +0000 UTC";

/// A time as Go's `time.Time.String` prints it in UTC.
pub(super) fn go_time(time: Option<SystemTime>) -> String {
    let timestamp = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    timestamp
        .map_or_else(|| NEVER.to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string())
}

/// `/healthz`: with `eligible`; `/livez`: without.
pub(super) fn proxy(last: Option<SystemTime>, now: SystemTime, eligible: Option<bool>) -> String {
    let (last, now) = (go_time(last), go_time(Some(now)));
    let eligible = eligible.map_or_else(String::new, |eligible| format!(", \"nodeEligible\": {eligible}"));
    format!("{{\"lastUpdated\": \"{last}\",\"currentTime\": \"{now}\"{eligible}}}")
}

/// The answer of a `healthCheckNodePort`.
pub(super) fn service(service: &ObjectName, local_endpoints: usize, healthy: bool) -> String {
    let ObjectName { namespace, name } = service;
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(250)
    }

    #[test]
    fn the_proxy_s_health_is_told_as_kube_proxy_tells_it() {
        let body = proxy(Some(at(0)), at(86_400), Some(true));
        let expected = "{\"lastUpdated\": \"1970-01-01 00:00:00.25 +0000 UTC\",\
                        \"currentTime\": \"1970-01-02 00:00:00.25 +0000 UTC\", \"nodeEligible\": true}";
        assert_eq!(body, expected);
        let body = proxy(None, at(0), None);
        let expected = "{\"lastUpdated\": \"0001-01-01 00:00:00 +0000 UTC\",\"currentTime\": \"1970-01-01 00:00:00.25 +0000 UTC\"}";
        assert_eq!(body, expected);
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(parsed["currentTime"].is_string());
    }

    #[test]
    fn a_service_s_health_is_told_as_kube_proxy_tells_it() {
        let body = service(&ObjectName::new("shop", "cart"), 2, true);
        let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"cart\"\n\t},\n\
                        \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(body, expected);
    }
}
