//! What the document says of a form's fields. The fields themselves pass through as they were given; the rules are those
//! of `domain::forms::fields`.
#![expect(dead_code, reason = "only their schemas matter")]

use std::collections::HashMap;

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The fields of a form.
#[derive(ToSchema)]
#[schema(example = json!({"fields": [{"name": "email", "label": "E-mail", "type": "email", "required": true}]}))]
pub(super) struct FormSchema {
    /// At most 50, of unique names.
    #[schema(max_items = 50)]
    fields: Vec<FormField>,
}

/// A field. Members that are not named here are kept too.
#[derive(ToSchema)]
struct FormField {
    /// The name of its value.
    name: String,
    /// Required, except of what only shows something.
    label: Option<String>,
    r#type: FormFieldType,
    #[schema(default = false, required = false)]
    required: bool,
    /// `pattern`, `min`, `max`, `message`.
    #[schema(value_type = Option<Object>)]
    validation: Option<Map<String, Value>>,
    /// Where its options come from.
    data_provider: Option<String>,
    data_provider_inputs: Option<HashMap<String, DataProviderInputConfig>>,
    #[schema(value_type = Option<Value>)]
    default_value: Option<Value>,
    placeholder: Option<String>,
    help_text: Option<String>,
    /// JavaScript, evaluated by the browser alone.
    visibility_expression: Option<String>,
    #[schema(value_type = Option<Vec<HashMap<String, String>>>)]
    options: Option<Vec<HashMap<String, String>>>,
    /// Of files: MIME types, `type/*`, or extensions.
    allowed_types: Option<Vec<String>>,
    /// Whether several files may be given.
    multiple: Option<bool>,
    /// Of a file.
    #[schema(minimum = 1)]
    max_size_mb: Option<i64>,
    /// What a markdown or html field shows.
    content: Option<String>,
    /// Whether a query parameter of its name reaches the launch workflow.
    allow_as_query_param: Option<bool>,
}

/// What a field is.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum FormFieldType {
    Text,
    Email,
    Number,
    Select,
    Checkbox,
    Textarea,
    Radio,
    Datetime,
    Markdown,
    Html,
    File,
}

/// An input of a data provider: exactly the member of its mode.
#[derive(ToSchema)]
struct DataProviderInputConfig {
    mode: DataProviderInputMode,
    /// Of `static`.
    value: Option<String>,
    /// Of `fieldRef`.
    field_name: Option<String>,
    /// Of `expression`: JavaScript, evaluated by the browser alone.
    expression: Option<String>,
}

/// Where an input comes from.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
enum DataProviderInputMode {
    Static,
    FieldRef,
    Expression,
}
