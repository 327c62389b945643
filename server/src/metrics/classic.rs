//! Prometheus's text format from before OpenMetrics, for what does not ask for OpenMetrics.

/// `openmetrics` in the older format, version 0.0.4: there a counter's family has the name of its samples, with
/// `_total`, there is no type for information, no unit and no end.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    // What is said about a family comes before its type, and its name hangs on that.
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            text += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
