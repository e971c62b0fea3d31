//! The part of Go templates that scripts use: `{{.Names}}`, `{{.State.Pid}}`, `{{json .Config}}`.

use serde_json::Value;

/// Text with fields in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

impl Template {
    /// Reads a template, or says what is wrong with it. `\t` and `\n` stand for a tab and a new line.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            parts.push(Part::text(before));
            let (action, after) = after.split_once("}}").ok_or("a {{ is not closed by }}")?;
            parts.push(Part::action(action.trim())?);
            rest = after;
        }
        parts.push(Part::text(rest));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Template(parts))
    }

    /// Fills in the fields of `value`, or names the one that is not there.
    pub fn fill(&self, value: &Value) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text += part,
                Part::Field { path, json } => {
                    let mut found = value;
                    for name in path {
                        let missing = || format!("there is no field .{}{}", path.join("."), known(found));
                        found = found.get(name).ok_or_else(missing)?;
                    }
                    text += &if *json { found.to_string() } else { plain(found) };
                }
            }
        }
        Ok(text)
    }
}

impl Part {
    fn text(text: &str) -> Part {
        Part::Text(text.replace("\\t", "\t").replace("\\n", "\n"))
    }

    fn action(action: &str) -> Result<Part, String> {
        let (json, field) = match action.strip_prefix("json ") {
            Some(field) => (true, field.trim()),
            None => (false, action),
        };
        let name_is_plain =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        match field.strip_prefix('.') {
            Some("") => Ok(Part::Field { path: Vec::new(), json }),
            Some(path) if path.split('.').all(name_is_plain) => {
                Ok(Part::Field { path: path.split('.').map(str::to_owned).collect(), json })
            }
            _ => Err(format!(
                "{{{{{action}}}}} is not understood: there are {{{{.Field}}}} and {{{{json .Field}}}} so far"
            )),
        }
    }
}

/// The fields that are there, for the message about one that is not.
fn known(value: &Value) -> String {
    match value.as_object() {
        Some(fields) if !fields.is_empty() => {
            format!(": there are {}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
        }
        _ => String::new(),
    }
}

/// A value as Go prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key}:{}", plain(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fills_in_fields() {
        let value = json!({"Id": "a", "State": {"Pid": 7, "Up": true, "Error": null}, "Args": ["x", "y"]});
        let table = [
            ("{{.Id}}", "a"),
            ("{{ .Id }}\\t{{.State.Pid}}\\n", "a\t7\n"),
            ("{{.State.Up}}{{.State.Error}}", "true<no value>"),
            ("{{.Args}} {{json .Args}}", "[x y] [\"x\",\"y\"]"),
            ("{{json .State.Error}}", "null"),
            ("{{.State}}", "map[Error:<no value> Pid:7 Up:true]"),
            ("no fields }}", "no fields }}"),
            ("", ""),
        ];
        for (template, text) in table {
            assert_eq!(Template::parse(template).unwrap().fill(&value).as_deref(), Ok(text), "{template}");
        }
        let error = Template::parse("{{.State.Pod}}").unwrap().fill(&value).unwrap_err();
        assert_eq!(error, "there is no field .State.Pod: there are Error, Pid, Up");
    }

    #[test]
    fn says_what_it_does_not_understand() {
        for text in
            ["{{", "{{.Id", "{{}}", "{{range .Args}}", "{{Id}}", "{{..}}", "{{.A.}}", "{{index .A \"b\"}}"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
