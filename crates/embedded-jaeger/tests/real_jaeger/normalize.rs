//! Responses in a form in which equal ones are equal.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

#[derive(Debug, PartialEq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) media_type: String,
    pub(crate) body: String,
}

impl Response {
    /// Returns the status, the media type and the JSON in an order.
    pub(crate) fn normalized(&self) -> Json {
        let body = serde_json::from_str(&self.body);
        // The real Jaeger sends errors and version 3 of the API as a text, though their bodies are JSON.
        let media_type = match &body {
            Ok(_) if self.media_type.starts_with("text/plain") => "application/json",
            _ => &self.media_type,
        };
        let body = body.map_or_else(|_| self.body.as_str().into(), normalize);
        json!({ "status": self.status, "type": media_type, "body": body })
    }

    /// Returns the names of spans and their warnings in both formats of the API.
    pub(crate) fn warnings(&self) -> BTreeSet<[String; 2]> {
        let json: Json = serde_json::from_str(&self.body).unwrap();
        let of_version_1 = json["data"][0]["spans"].as_array().into_iter().flatten().map(|span| {
            (&span["operationName"], span["warnings"].as_array().cloned().unwrap_or_default())
        });
        let spans = flatten(json["result"]["resourceSpans"].clone());
        let of_version_3 = spans.as_array().unwrap().iter().map(|item| {
            let attributes = item["span"]["attributes"].as_array().into_iter().flatten();
            let lists = attributes.filter(|attribute| attribute["key"] == "@jaeger@warnings");
            let values = lists.flat_map(|list| list["value"]["arrayValue"]["values"].as_array());
            let texts = values.flatten().map(|value| value["stringValue"].clone());
            (&item["span"]["name"], texts.collect())
        });
        let spans = of_version_1.chain(of_version_3);
        let warnings = spans.flat_map(|(name, texts): (_, Vec<Json>)| {
            texts
                .into_iter()
                .map(move |text| [name, &text].map(|json| json.as_str().unwrap().to_owned()))
        });
        warnings.collect()
    }
}

/// Describes the differences of two JSON values by their paths.
pub(crate) fn differences(ours: &Json, theirs: &Json) -> Vec<String> {
    let mut found = Vec::new();
    add_differences("", ours, theirs, &mut found);
    found
}

fn add_differences(path: &str, a: &Json, b: &Json, found: &mut Vec<String>) {
    match (a, b) {
        (Json::Object(a), Json::Object(b)) => {
            let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let [a, b] = [a, b].map(|members| members.get(key).unwrap_or(&Json::Null));
                add_differences(&format!("{path}.{key}"), a, b, found);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                add_differences(&format!("{path}[{index}]"), a, b, found);
            }
        }
        _ if a == b => {}
        _ => found.push(format!("{path}: {a} instead of {b}")),
    }
}

/// Sorts lists, and omits members without a value, which version 3 of the real API does not send.
fn normalize(json: Json) -> Json {
    match json {
        Json::Array(items) => {
            // The real Jaeger also counts calls within a service.
            let is_within = |item: &Json| {
                item.is_object() && item["parent"].is_string() && item["parent"] == item["child"]
            };
            let items = items.into_iter().filter(|item| !is_within(item));
            let mut items: Vec<Json> = items.map(normalize).collect();
            // Traces keep their order, which is that of their age.
            if items.iter().all(|item| item.get("spans").is_none()) {
                items.sort_by_cached_key(Json::to_string);
            }
            Json::Array(items)
        }
        Json::Object(members) => {
            let members = members.into_iter().map(|(key, value)| match &*key {
                "errors" | "error" => (key, normalize_errors(value)),
                // They are compared separately.
                "warnings" => (key, Json::Null),
                "resourceSpans" => (key, normalize(flatten(value))),
                _ => (key, normalize(value)),
            });
            let mut members: Map<_, _> = members.filter(|(_, value)| !is_empty(value)).collect();
            inline_processes(&mut members);
            Json::Object(members)
        }
        // `3.0` is the same number as `3`.
        Json::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => float.to_string().into(),
            None => number.to_string().into(),
        },
        // Go escapes these characters in JSON, which is the value of a list or a map.
        Json::String(text) => {
            let escapes = [("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&")];
            // Version 2.20 shows this for an empty name.
            let text = text.replace("empty-span-name", "");
            escapes.into_iter().fold(text, |text, (from, to)| text.replace(from, to)).into()
        }
        other => other,
    }
}

/// Removes the texts of errors in parameters, which are those of the parsers.
fn normalize_errors(mut json: Json) -> Json {
    let errors = json.as_array_mut().into_iter().flatten();
    for error in errors.filter(|error| error["code"] == 400) {
        error["msg"] = (!is_empty(&error["msg"])).into();
    }
    if json["httpCode"] == 400 {
        json["message"] = (!is_empty(&json["message"])).into();
    }
    normalize(json)
}

/// Returns a list of spans, each with its resource and scope.
fn flatten(resource_spans: Json) -> Json {
    let list = |json: &Json| json.as_array().cloned().unwrap_or_default();
    let of_resource =
        |resource: &Json| {
            let of_scope =
                |scope: &Json| {
                    list(&scope["spans"]).into_iter().map({
                let (resource, scope) = (resource["resource"].clone(), scope["scope"].clone());
                move |span| json!({ "resource": resource, "scope": scope, "span": span })
            }).collect::<Vec<_>>()
                };
            list(&resource["scopeSpans"]).iter().flat_map(of_scope).collect::<Vec<_>>()
        };
    list(&resource_spans).iter().flat_map(of_resource).collect()
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.bytes().all(|byte| byte == b'0'),
        Json::Array(items) => items.is_empty(),
        Json::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// Replaces the ids of processes by the processes.
fn inline_processes(trace: &mut Map<String, Json>) {
    let Some(Json::Object(processes)) = trace.remove("processes") else { return };
    let Some(Json::Array(spans)) = trace.get_mut("spans") else { return };
    for span in spans.iter_mut() {
        let id = span["processID"].take();
        span["processID"] = id.as_str().map_or(Json::Null, |id| processes[id].clone());
    }
    spans.sort_by_cached_key(Json::to_string);
}
