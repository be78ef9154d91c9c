// Shows /openapi.json: every operation with its parameters, a form to try it, and its answers.
"use strict";

const FIRST_BYTES = 20000;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function typeOf(schema, schemas) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((each) => typeOf(each, schemas)).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "array") return `[${typeOf(schema.items, schemas)}]`;
  return schema.format ? `${schema.type} (${schema.format})` : schema.type || "";
}

function fieldsOf(schema, schemas) {
  const found = schema && schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema;
  if (!found || !found.properties) return "";
  const rows = Object.entries(found.properties).map(([name, each]) => {
    const needed = (found.required || []).includes(name) ? "" : "optional";
    return element("tr", {},
      element("td", {}, element("code", { textContent: name })),
      element("td", { className: "quiet", textContent: `${typeOf(each, schemas)} ${needed}` }),
      element("td", { textContent: each.description || "" }));
  });
  return element("table", {}, ...rows);
}

function parameterRow(parameter, inputs, schemas) {
  const input = element("input", { value: parameter.example || "" });
  inputs.push({ parameter, input });
  return element("tr", {},
    element("td", {}, element("code", { textContent: parameter.name }),
      element("div", { className: "quiet", textContent: parameter.in })),
    element("td", {}, input),
    element("td", { textContent: parameter.description || "" },
      element("div", { className: "quiet", textContent: typeOf(parameter.schema, schemas) })));
}

function requestOf(method, path, inputs, body) {
  const query = new URLSearchParams();
  const headers = {};
  let address = path;
  for (const { parameter, input } of inputs) {
    if (input.value === "") continue;
    if (parameter.in === "path") {
      address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    } else if (parameter.in === "query") {
      query.append(parameter.name, input.value);
    } else {
      headers[parameter.name] = input.value;
    }
  }
  const options = { method: method.toUpperCase(), headers };
  if (body && body.value.trim() !== "") {
    options.body = body.value;
    headers["content-type"] = "application/json";
  }
  return [query.size ? `${address}?${query}` : address, options];
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function send(method, path, inputs, body, shown) {
  const [address, options] = requestOf(method, path, inputs, body);
  shown.textContent = `${options.method} ${address} ...`;
  try {
    const answer = await fetch(address, options);
    const first = `${answer.status} ${answer.headers.get("content-type") || ""}\n\n`;
    if ((answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
      shown.textContent = first;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        shown.textContent = (shown.textContent + part.value).slice(-FIRST_BYTES);
      }
      return;
    }
    shown.textContent = first + pretty(await answer.text()).slice(0, FIRST_BYTES);
  } catch (error) {
    shown.textContent = `no answer: ${error.message}`;
  }
}

function showOperation(path, method, operation, schemas) {
  const inputs = [];
  const rows = (operation.parameters || []).map((each) => parameterRow(each, inputs, schemas));
  const shown = element("pre", { hidden: true });
  const parts = [element("p", { textContent: operation.description || "" })];
  if (rows.length) parts.push(element("h4", { textContent: "Parameters" }), element("table", {}, ...rows));
  let body = null;
  const json = operation.requestBody && operation.requestBody.content["application/json"];
  if (json) {
    body = element("textarea", { value: json.example ? JSON.stringify(json.example, null, 2) : "" });
    parts.push(element("h4", { textContent: "Body" }), body, fieldsOf(json.schema, schemas));
  }
  const button = element("button", { textContent: "Send", type: "button" });
  button.addEventListener("click", () => {
    shown.hidden = false;
    send(method, path, inputs, body, shown);
  });
  const answers = Object.entries(operation.responses).map(([status, each]) => element("tr", {},
    element("td", {}, element("code", { textContent: status })),
    element("td", { textContent: each.description }),
    element("td", { className: "quiet", textContent: Object.entries(each.content || {})
      .map(([media, content]) => `${media}: ${typeOf(content.schema, schemas)}`).join("; ") })));
  parts.push(element("p", {}, button), shown, element("h4", { textContent: "Answers" }),
    element("table", {}, ...answers));
  return element("details", { id: operation.operationId },
    element("summary", {},
      element("span", { className: `method ${method}`, textContent: method.toUpperCase() }),
      element("code", { textContent: path }),
      element("span", { className: "quiet", textContent: `  ${operation.summary}` })),
    ...parts);
}

async function main() {
  const place = document.getElementById("operations");
  const answer = await fetch("/openapi.json");
  const api = await answer.json();
  const schemas = api.components.schemas;
  document.getElementById("title").textContent = `${api.info.title} over HTTP, ${api.info.version}`;
  document.getElementById("about").textContent = api.info.description;
  const every = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  place.replaceChildren(...api.tags.flatMap(({ name }) => [
    element("h2", { textContent: name }),
    ...every.filter(({ operation }) => operation.tags.includes(name))
      .map(({ path, method, operation }) => showOperation(path, method, operation, schemas)),
  ]));
}

main().catch((error) => {
  document.getElementById("operations").textContent = `/openapi.json cannot be shown: ${error.message}`;
});
