"""Every sentence the API says to a client, in the languages it speaks."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]

# Longer headers than browsers send; what lies beyond is not looked at.
_MAX_LANGUAGES = 20

MESSAGES: dict[str, dict[Language, str]] = {
    "route_not_found": {
        "en": "No such address: {path}. The routes are listed in /api/v1/openapi.json",
        "zh": "地址不存在：{path}。全部路由见 /api/v1/openapi.json",
    },
    "method_not_allowed": {
        "en": "{method} is not possible here",
        "zh": "此地址不支持 {method} 方法",
    },
    "bad_parameters": {"en": "Bad request: {problems}", "zh": "请求有误：{problems}"},
    "bad_time_range": {
        "en": "start_time must not be later than end_time",
        "zh": "start_time 不能晚于 end_time",
    },
    "bad_json": {
        "en": "The body is not valid JSON: {reason} at character {position}",
        "zh": "请求体不是有效的 JSON：第 {position} 个字符处 {reason}",
    },
    "unreadable_body": {
        "en": "The body cannot be read: send UTF-8 JSON without extreme nesting or numbers",
        "zh": "无法读取请求体：请发送 UTF-8 编码的 JSON，嵌套和数字不要过大",
    },
    "not_json": {
        "en": "Send the body as uncompressed JSON with the header Content-Type: application/json",
        "zh": "请以未压缩的 JSON 发送请求体，并带上请求头 Content-Type: application/json",
    },
    "request_too_large": {
        "en": "The body is larger than {limit_bytes} bytes (MAX_REQUEST_SIZE); send less at once",
        "zh": "请求体超过 {limit_bytes} 字节（MAX_REQUEST_SIZE），请减少单次发送的数据",
    },
    "http_error": {"en": "The request failed: {reason}", "zh": "请求失败：{reason}"},
    "project_not_found": {
        "en": "No project has the key or id {reference}; GET /api/v1/projects lists them",
        "zh": "没有密钥或编号为 {reference} 的项目；可用 GET /api/v1/projects 查看全部项目",
    },
    "project_exists": {
        "en": "A project named {name} exists already; choose another name",
        "zh": "名为 {name} 的项目已存在，请换一个名称",
    },
    "invalid_project": {"en": "The project cannot be made: {reason}", "zh": "无法创建项目：{reason}"},
    "record_not_found": {
        "en": "Project {project} has no record {record}; it may be older than the retention time",
        "zh": "项目 {project} 中没有记录 {record}；它可能已超过保留期限",
    },
    "node_not_found": {
        "en": "The record's call tree has no node {node}; its nodes are numbered from 0 below {node_count}",
        "zh": "该记录的调用树没有节点 {node}；节点编号从 0 起，小于 {node_count}",
    },
    "host_refused": {
        "en": "Requests for the host {host} are refused; add it to ALLOWED_HOSTS if it is this server's name",
        "zh": "拒绝发往主机 {host} 的请求；如果这是本服务器的名称，请把它加入 ALLOWED_HOSTS",
    },
    "token_missing": {
        "en": "This server listens beyond loopback: send Authorization: Bearer <ADMIN_TOKEN>",
        "zh": "此服务器监听非回环地址：请发送 Authorization: Bearer <ADMIN_TOKEN>",
    },
    "no_anonymous_access": {
        "en": "This server listens beyond loopback, where nothing is anonymous: "
        "set ADMIN_TOKEN and send it as bearer token, or set BIND_HOST=127.0.0.1",
        "zh": "此服务器监听非回环地址，不允许匿名访问："
        "请设置 ADMIN_TOKEN 并作为 Bearer 令牌发送，或设置 BIND_HOST=127.0.0.1",
    },
    "store_unavailable": {
        "en": "The database does not answer; try again in a few seconds",
        "zh": "数据库没有响应，请稍后再试",
    },
    "internal_error": {
        "en": "Something went wrong here; the log names it under request id {request_id}",
        "zh": "服务器内部错误；日志中的请求编号为 {request_id}",
    },
    # What is wrong with one field; the keys are the error types of pydantic and of our own validators.
    "field.int_parsing": {"en": "must be a whole number", "zh": "必须是整数"},
    "field.float_parsing": {"en": "must be a number", "zh": "必须是数字"},
    "field.finite_number": {"en": "must be a finite number", "zh": "必须是有限的数字"},
    "field.bool_parsing": {"en": "must be true or false", "zh": "必须是 true 或 false"},
    "field.literal_error": {"en": "must be {expected}", "zh": "必须是 {expected}"},
    "field.greater_than_equal": {"en": "must be at least {ge}", "zh": "不能小于 {ge}"},
    "field.less_than_equal": {"en": "must be at most {le}", "zh": "不能大于 {le}"},
    "field.string_type": {"en": "must be text", "zh": "必须是文本"},
    "field.string_unicode": {"en": "must be valid Unicode text", "zh": "必须是有效的 Unicode 文本"},
    "field.string_too_short": {"en": "must not be empty", "zh": "不能为空"},
    "field.string_too_long": {
        "en": "must have at most {max_length} characters",
        "zh": "最多 {max_length} 个字符",
    },
    "field.control_character": {
        "en": "must not contain control characters",
        "zh": "不能包含控制字符",
    },
    "field.web_address": {
        "en": "must be an address that begins with http:// or https://",
        "zh": "必须是以 http:// 或 https:// 开头的地址",
    },
    "field.status_filter": {
        "en": "must be ok, failed or an HTTP status from 100 to 599",
        "zh": "必须是 ok、failed 或 100 到 599 的 HTTP 状态码",
    },
    "field.time": {
        "en": "must be a time with zone such as 2026-11-21T10:00:00Z (write + as %2B in an address)",
        "zh": "必须是带时区的时间，例如 2026-11-21T10:00:00Z（地址中的 + 要写成 %2B）",
    },
    "field.missing": {"en": "is required", "zh": "是必填项"},
    "field.extra_forbidden": {
        "en": "is not known here; /api/v1/openapi.json lists what is",
        "zh": "无法识别；可用的字段见 /api/v1/openapi.json",
    },
    "field.model_attributes_type": {"en": "must be a JSON object", "zh": "必须是 JSON 对象"},
    "field.other": {"en": "is not valid", "zh": "无效"},
}


def message(key: str, language: Language, **values: object) -> str:
    """The sentence `key` in `language`, with `values` put in."""
    return MESSAGES[key][language].format_map(values)


def preferred_language(accept_language: str) -> Language:
    """The language of an Accept-Language header (RFC 9110, 12.5.4); English when it names none of ours."""
    best: Language = "en"
    best_quality = 0.0
    for choice in accept_language.split(",")[:_MAX_LANGUAGES]:
        tag, _, parameters = choice.partition(";")
        primary = tag.strip().lower().partition("-")[0]
        quality = _quality(parameters)
        if primary in ("en", "zh") and quality > best_quality:
            best, best_quality = "zh" if primary == "zh" else "en", quality
    return best


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        quality = float(value)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
