//! Azure OpenAI: OpenAI's bodies under a path of its own.

use llmserve_core::Error;

/// The path of a deployment, which is what Azure calls a model, below `https://NAME.openai.azure.com`.
pub(super) fn path(path: &str, model: Option<&str>, api_version: &str) -> Result<String, Error> {
    let Some(deployment) = model else {
        return Err(Error::invalid_request(
            "model",
            "Azure has its deployment in the path: name it, in the request or for the endpoint",
        ));
    };
    let plain = |text: &str| {
        let mut bytes = text.bytes();
        !text.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    // A name out of a request must not become another path.
    if !plain(deployment) || deployment.starts_with('.') || !plain(api_version) {
        return Err(Error::invalid_request(
            "model",
            "names of deployments have letters, digits, '-', '_' and '.' only",
        ));
    }
    Ok(format!(
        "/openai/deployments/{deployment}{path}?api-version={api_version}"
    ))
}
