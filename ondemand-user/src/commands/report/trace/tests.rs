//! Tests of replayed and of refused traces.

use super::*;

fn learning() -> Terms {
    ondemand_core::config::Learning::default().terms(None)
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = replay(text.as_bytes(), "t.csv", &Timeouts::default(), learning()).unwrap_err();
    assert_eq!(format!("{error:#}"), expected, "{text:?}");
}

#[test]
fn what_is_no_trace_is_refused() {
    let header = "the first line of a trace is \"timestamp_seconds,service\"";
    refused("", &format!("t.csv: is empty; {header}"));
    refused(
        "0,a\n",
        &format!("t.csv:1: no column \"timestamp_seconds\"; {header}"),
    );
    refused(
        "timestamp_seconds,name\n0,a\n",
        &format!("t.csv:1: no column \"service\"; {header}"),
    );
    let rows = |rows: &str| format!("timestamp_seconds,service\n{rows}");
    refused(&rows(""), "t.csv: no arrivals");
    refused(
        &rows("0,a\n2.5,b\n2.25,a\n"),
        "t.csv:4: 2.25 is earlier than the time of the line before it, 2.5; sort the trace by \
         time (sort -n, below the first line)",
    );
    refused(&rows("0,a\n,a\n"), "t.csv:3: the time is missing");
    refused(&rows("0,a\n-1,a\n"), "t.csv:3: the time -1 is negative");
    for text in ["x", "1e5", "nan", "inf", "0x1", "1.2.3", "+1", ".", "1 2"] {
        let expected = format!("t.csv:3: the time {text:?} is not a number of seconds");
        refused(&rows(&format!("0,a\n{text},a\n")), &expected);
    }
    refused(
        &rows("1766000000000,a\n"),
        "t.csv:2: the time 1766000000000 is too large; are these seconds?",
    );
    refused(
        &rows("99999999999999999999999999,a\n"),
        "t.csv:2: the time 99999999999999999999999999 is too large; are these seconds?",
    );
    refused(&rows("0,\n"), "t.csv:2: the service's name is missing");
    refused(&rows("0,a\n1\n"), "t.csv:3: 1 field, the first line has 2");
    refused(
        &rows("0,a\n1,b,c\n"),
        "t.csv:3: 3 fields, the first line has 2",
    );
    refused(
        &rows("0,a\r\n\r\n-1,b\r\n"),
        "t.csv:4: the time -1 is negative",
    );
    refused(&rows("0,\"a\n1,a\n"), "t.csv:2: a quote is not closed");
    refused(
        &rows("0,\"a\"\r1,a\n"),
        "t.csv:2: it contains a carriage return",
    );
    refused(
        &"x".repeat(1 << 20),
        "t.csv:1: longer than 64 KiB; is it a trace?",
    );
    refused(
        "timestamp_seconds,service\n0,a\n1,\"a",
        "t.csv:3: a quote is not closed",
    );
}

#[test]
fn other_ways_to_write_a_trace() {
    for text in [
        "timestamp_seconds,service\n0,a\n1.5,a\n",
        "\u{feff}timestamp_seconds,service\r\n0.0,a\r\n1.500000,a\r\n",
        "service,url,timestamp_seconds\na,/x,0\na,\"/y,\",1.5000009\n",
        "\"timestamp_seconds\",\"service\"\n\"0\",\"a\"\n 1.5 ,a",
    ] {
        let trace = replay(text.as_bytes(), "t.csv", &Timeouts::default(), learning()).unwrap();
        assert_eq!(trace.span, (0, 1_500_000), "{text:?}");
        let [service] = trace.services.as_slice() else {
            panic!("{text:?}: {trace:?}");
        };
        assert_eq!((service.name.as_str(), service.replay.arrivals()), ("a", 2));
    }
}

#[test]
fn too_many_services_are_refused() {
    let mut text = "timestamp_seconds,service\n".to_owned();
    for number in 0..=MOST_SERVICES {
        text += &format!("0,{number}\n");
    }
    refused(
        &text,
        "t.csv:32770: more than 32768 services; is the column \"service\" the right one?",
    );
}

#[test]
fn hours_of_the_week() {
    assert_eq!(hour_of_week(0), 3 * 24);
    // 2024-01-01 was a Monday.
    assert_eq!(hour_of_week(1_704_067_200 * MICROS), 0);
    assert_eq!(hour_of_week((1_704_067_200 + 25 * 3600) * MICROS), 25);
}
