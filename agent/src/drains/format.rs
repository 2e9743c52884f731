//! Lines as other systems take them: RFC 5424, JSON lines, OTLP.
//!
//! In: [`LogLine`]s and the node's name. Out: bytes. Pure.

use berth_model::container::{LogLine, LogStream};
use serde_json::json;

/// Longest message in a datagram, in bytes (RFC 5426 §3.2: what every receiver should take).
const LONGEST_DATAGRAM: usize = 2048;

/// `<14>1 2026-03-04T05:06:07.000000Z NODE APP web.1 - - text` (RFC 5424 §6): facility user, severity informational for stdout,
/// error for stderr, notice for Berth's own lines.
pub(super) fn syslog(line: &LogLine, node: &str) -> Vec<u8> {
    let severity = match line.stream {
        LogStream::Stdout => 6,
        LogStream::Stderr => 3,
        LogStream::Berth => 5,
    };
    let header = format!(
        "<{}>1 {} {} {} {}.{} - - ",
        8 + severity,
        time(line.at_us),
        word(node, 255),
        word(line.app.as_str(), 48),
        word(line.process.as_str(), 100),
        line.ordinal
    );
    let mut message = header.into_bytes();
    message.extend_from_slice(line.text.as_bytes());
    message
}

/// One that fits into a datagram: cut where a character ends.
pub(super) fn datagram(line: &LogLine, node: &str) -> Vec<u8> {
    let mut message = syslog(line, node);
    if message.len() > LONGEST_DATAGRAM {
        let mut end = LONGEST_DATAGRAM;
        while end > 0 && message[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        message.truncate(end);
    }
    message
}

/// `LENGTH SP MESSAGE` (RFC 6587 §3.4.1).
pub(super) fn counted(line: &LogLine, node: &str) -> Vec<u8> {
    let message = syslog(line, node);
    let mut framed = format!("{} ", message.len()).into_bytes();
    framed.extend_from_slice(&message);
    framed
}

/// One JSON object a line: [`LogLine`]'s fields, `node` and `time`.
pub(super) fn json_lines(lines: &[LogLine], node: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for line in lines {
        let mut object = serde_json::to_value(line).unwrap_or_default();
        if let Some(object) = object.as_object_mut() {
            object.insert("node".to_owned(), json!(node));
            object.insert("time".to_owned(), json!(time(line.at_us)));
        }
        body.extend_from_slice(object.to_string().as_bytes());
        body.push(b'\n');
    }
    body
}

/// `ExportLogsServiceRequest` as JSON (OTLP 1.x): a resource a container, 64-bit numbers as text.
pub(super) fn otlp(lines: &[LogLine], node: &str) -> Vec<u8> {
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let mut resources: Vec<(&LogLine, Vec<serde_json::Value>)> = Vec::new();
    for line in lines {
        let (number, name) = match line.stream {
            LogStream::Stdout | LogStream::Berth => (9, "INFO"),
            LogStream::Stderr => (17, "ERROR"),
        };
        let stream = serde_json::to_value(line.stream).unwrap_or_default();
        let record = json!({
            "timeUnixNano": i128::from(line.at_us).saturating_mul(1000).to_string(),
            "severityNumber": number, "severityText": name,
            "body": {"stringValue": line.text},
            "attributes": [attribute("log.iostream", stream.as_str().unwrap_or_default())],
        });
        match resources.iter_mut().find(|(first, _)| first.container == line.container) {
            Some((_, records)) => records.push(record),
            None => resources.push((line, vec![record])),
        }
    }
    let resources: Vec<_> = resources
        .into_iter()
        .map(|(line, records)| {
            json!({
                "resource": {"attributes": [
                    attribute("service.name", line.app.as_str()),
                    attribute("service.instance.id", &format!("{}.{}", line.process, line.ordinal)),
                    attribute("container.id", line.container.as_str()),
                    attribute("host.name", node),
                ]},
                "scopeLogs": [{"scope": {"name": "berth"}, "logRecords": records}],
            })
        })
        .collect();
    json!({"resourceLogs": resources}).to_string().into_bytes()
}

fn time(at_us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(at_us).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Printable ASCII without spaces, as header fields are (RFC 5424 §6); `-` for nothing.
fn word(text: &str, most: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::{AppName, ContainerId, ProcessType};

    fn line(text: &str) -> LogLine {
        LogLine {
            at_us: 1_772_600_767_000_001,
            app: AppName::parse("hello").expect("valid"),
            process: ProcessType::web(),
            ordinal: 1,
            container: ContainerId::parse("hello.web.1.abc").expect("valid"),
            stream: LogStream::Stderr,
            text: text.to_owned(),
        }
    }

    #[test]
    fn syslog_is_as_the_rfcs_say() {
        let message = syslog(&line("a b"), "n 1");
        assert_eq!(
            String::from_utf8(message.clone()).expect("text"),
            "<11>1 2026-03-04T05:06:07.000001Z n1 hello web.1 - - a b"
        );
        let framed = counted(&line("a b"), "n 1");
        assert_eq!(framed, [format!("{} ", message.len()).as_bytes(), &message].concat());
        let cut = datagram(&line(&"é".repeat(2000)), "n");
        assert!(cut.len() <= LONGEST_DATAGRAM && String::from_utf8(cut).is_ok());
    }

    #[test]
    fn json_says_all_and_otlp_groups_by_container() {
        let lines = [line("x"), line("y\n\"")];
        let json = String::from_utf8(json_lines(&lines, "n")).expect("text");
        let second: serde_json::Value =
            serde_json::from_str(json.lines().nth(1).expect("two")).expect("JSON");
        assert_eq!(
            (second["text"].as_str(), second["node"].as_str(), second["app"].as_str()),
            (Some("y\n\""), Some("n"), Some("hello"))
        );
        let body: serde_json::Value = serde_json::from_slice(&otlp(&lines, "n")).expect("JSON");
        let records = &body["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
        assert_eq!(records.as_array().map(Vec::len), Some(2));
        assert_eq!(records[0]["timeUnixNano"], "1772600767000001000");
    }
}
