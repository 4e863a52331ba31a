"""What is read out of Hugging Face's answers, and what is said about them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _huggingface as hf
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError, HttpError

COMMIT = "f" * 40
SHA256 = "0123456789abcdef" * 4
REPOSITORY = hf.Repository("TencentARC/T2I-Adapter")
WITH_TOKEN = hf.Repository("TencentARC/T2I-Adapter", token=True)


def files(*paths: str) -> list[hf.HubFile]:
    return [hf.HubFile(path, 1, git_sha1=COMMIT) for path in paths]


def said(
    status: int, headers: dict[str, str] | None = None, repository: hf.Repository = REPOSITORY, path: str | None = None
) -> str:
    error = HttpError("https://huggingface.co/api/models/x", status, headers or {}, b"")
    return str(hf.explanation(repository, "main", path)(error))


# Addresses


@pytest.mark.parametrize(
    ("kind", "api", "page"),
    [
        ("model", "https://huggingface.co/api/models/a/b", "https://huggingface.co/a/b"),
        ("dataset", "https://huggingface.co/api/datasets/a/b", "https://huggingface.co/datasets/a/b"),
        ("space", "https://huggingface.co/api/spaces/a/b", "https://huggingface.co/spaces/a/b"),
    ],
)
def test_each_type_has_its_addresses(kind: str, api: str, page: str) -> None:
    repository = hf.Repository("a/b", kind)
    assert repository.revision_url("refs/pr/1") == f"{api}/revision/refs%2Fpr%2F1"
    assert repository.tree_url(COMMIT, "") == f"{api}/tree/{COMMIT}"
    assert repository.tree_url(COMMIT, "x/y z") == f"{api}/tree/{COMMIT}/x%2Fy%20z"
    assert repository.file_url(COMMIT, "x/y #1?.bin") == f"{page}/resolve/{COMMIT}/x/y%20%231%3F.bin"


def test_the_endpoint_is_the_option_then_the_hosts_then_the_hub() -> None:
    environment = {"HF_ENDPOINT": "https://mirror.example/"}
    assert hf.endpoint("http://10.0.0.5:8190/hf/", environment) == "http://10.0.0.5:8190/hf"
    assert hf.endpoint(None, environment) == "https://mirror.example"
    assert hf.endpoint(None, {}) == "https://huggingface.co"
    assert hf.endpoint(None, {"HF_ENDPOINT": ""}) == "https://huggingface.co"


@pytest.mark.parametrize("url", ["huggingface.co", "ftp://huggingface.co", "https://", "https://h/?a=b", "http://[x"])
def test_an_endpoint_that_is_no_address_is_named(url: str) -> None:
    with pytest.raises(DownloadError, match=r"^endpoint is no address of a hub"):
        hf.endpoint(url, {})
    with pytest.raises(DownloadError, match=r"^HF_ENDPOINT in the host's environment is no address"):
        hf.endpoint(None, {"HF_ENDPOINT": url})


def test_a_password_in_the_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(DownloadError, match="has a password in it") as caught:
        hf.endpoint("https://me:secret@huggingface.co", {})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "lllyasviel/Annotators", "_a/b.c-d_1"])
def test_names_of_repositories(name: str) -> None:
    assert hf.check_repository(name) == name


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "../b", "a/..", "a//b", "/a/b", "a/b?x", "a b/c", "a/b.git", "a/b--c", "a/" + "b" * 97]
)
def test_what_is_no_repository_gets_into_no_address(name: str) -> None:
    with pytest.raises(DownloadError, match="is no repository of Hugging Face"):
        hf.check_repository(name)


# Files of a snapshot


@pytest.mark.parametrize(
    ("allow", "ignore", "expected"),
    [
        (None, None, ["README.md", "models/a.pth", "models/b.safetensors", "models/old/C.safetensors"]),
        # As in huggingface_hub, "*" goes over "/", a folder means all below it, and case matters.
        (["models/*.safetensors"], None, ["models/b.safetensors", "models/old/C.safetensors"]),
        (["models/"], ["*.pth"], ["models/b.safetensors", "models/old/C.safetensors"]),
        (["models\\old\\"], None, ["models/old/C.safetensors"]),
        (["*/c.safetensors"], None, []),
        (["*.md", "*.pth"], None, ["README.md", "models/a.pth"]),
        (None, ["models/*"], ["README.md"]),
        ([], None, []),
        (None, [], ["README.md", "models/a.pth", "models/b.safetensors", "models/old/C.safetensors"]),
    ],
)
def test_patterns_choose_files(allow: list[str] | None, ignore: list[str] | None, expected: list[str]) -> None:
    listed = files("README.md", "models/a.pth", "models/b.safetensors", "models/old/C.safetensors")
    assert [file.path for file in hf.chosen(listed, allow, ignore)] == expected


def test_hidden_files_are_in_no_snapshot() -> None:
    listed = files(".gitattributes", ".ssh/authorized_keys", "models/.cache/a", "models/a.bin")
    assert [file.path for file in hf.chosen(listed, [".*", "*"], None)] == ["models/a.bin"]
    # A path that leads out is refused later, and not passed over.
    assert hf.chosen(files("../a"), None, None) == files("../a")


def test_files_keep_their_folders_or_lie_flat() -> None:
    listed = files("models/a.safetensors", "models/old/b.safetensors")
    assert [name for _, name in hf.names_in(listed, False)] == ["models/a.safetensors", "models/old/b.safetensors"]
    assert [name for _, name in hf.names_in(listed, True)] == ["a.safetensors", "b.safetensors"]


def test_flat_files_of_one_name_are_named() -> None:
    with pytest.raises(DownloadError, match=r'^"a/x\.bin" and "b/x\.bin" would both become "x\.bin"'):
        hf.names_in(files("a/x.bin", "b/x.bin"), True)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a/./x", "a//x", "a\\..\\x", "a/x\n", "", "a/"])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_path_that_leaves_dest_is_refused(path: str, flatten: bool) -> None:
    with pytest.raises(DownloadError, match="could land outside dest"):
        hf.names_in(files(path), flatten)


# What pins a request


def test_a_commit_or_a_sha256_pins_a_request() -> None:
    asked: dict[str, Any] = {"repository": "a/b", "dest": "/srv/models/"}
    assert hf.request_key(asked) is None
    assert hf.request_key({**asked, "revision": "main"}) is None
    assert hf.request_key({**asked, "revision": COMMIT[:7]}) is None
    assert hf.request_key({**asked, "sha256": SHA256}) is None
    assert hf.request_key({**asked, "file": "x.bin"}) is None
    assert hf.request_key({**asked, "revision": COMMIT}) is not None
    assert hf.request_key({**asked, "file": "x.bin", "sha256": SHA256}) is not None


def test_left_out_options_are_their_defaults_in_a_key() -> None:
    short = hf.request_key({"repository": "a/b", "dest": "/d", "revision": COMMIT})
    whole = hf.request_key(
        {
            "repository": "a/b",
            "repository_type": "model",
            "dest": "/d",
            "revision": COMMIT,
            "file": None,
            "sha256": None,
            "allow_patterns": None,
            "ignore_patterns": None,
            "flatten": False,
            "unsafe": "refuse",
            "pickle": "deny",
            "endpoint": "https://mirror.example",
            "connections": 6,
        }
    )
    assert short == whole
    assert json.loads(json.dumps(short)) == short


@pytest.mark.parametrize(
    "option",
    [
        {"dest": "/e"},
        {"repository": "a/c"},
        {"repository_type": "dataset"},
        {"revision": "e" * 40},
        {"file": "x"},
        {"allow_patterns": ["*"]},
        {"ignore_patterns": ["*.bin"]},
        {"flatten": True},
        {"unsafe": "allow"},
        {"pickle": "allow"},
    ],
)
def test_another_request_has_another_key(option: dict[str, Any]) -> None:
    asked = {"repository": "a/b", "dest": "/d", "revision": COMMIT}
    assert hf.request_key({**asked, **option}) != hf.request_key(asked)


# Answers of the API


def test_large_files_have_a_sha256_and_small_ones_a_git_sha1() -> None:
    pointer = {"type": "file", "path": "a.bin", "oid": COMMIT, "size": 7 << 30, "xetHash": "x"}
    large = {**pointer, "lfs": {"oid": SHA256, "size": 7 << 30, "pointerSize": 135}}
    assert hf.hub_file(large) == hf.HubFile("a.bin", 7 << 30, sha256=SHA256)
    assert hf.hub_file({"type": "file", "path": "x.md", "oid": COMMIT, "size": 0}) == hf.HubFile(
        "x.md", 0, git_sha1=COMMIT
    )


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "a.bin",
        {},
        {"path": "a.bin", "oid": COMMIT},
        {"path": "a.bin", "oid": COMMIT, "size": -1},
        {"path": "a.bin", "oid": COMMIT, "size": "1"},
        {"path": 1, "oid": COMMIT, "size": 1},
        {"path": "a.bin", "oid": SHA256, "size": 1},
        {"path": "a.bin", "oid": COMMIT, "size": 1, "lfs": {"oid": COMMIT, "size": 1}},
        {"path": "a.bin", "oid": COMMIT, "size": 1, "lfs": {"oid": SHA256.upper(), "size": 1}},
    ],
)
def test_what_is_no_file_of_a_tree(entry: Any) -> None:
    assert hf.hub_file(entry) is None


def test_the_next_page_is_on_the_same_host() -> None:
    url = f"https://huggingface.co/api/models/a/b/tree/{COMMIT}?recursive=true"
    following = f"{url}&limit=1000&cursor=Zm9v,YmFy"
    assert hf.next_page({}, url) == ""
    assert hf.next_page({"Link": f'<{following}>; rel="next"'}, url) == following
    assert hf.next_page({"Link": f'<{url}>; rel="prev", <{following}>; title="x"; rel=next'}, url) == following
    assert hf.next_page({"Link": f'<{url}>; rel="prev"'}, url) == ""
    assert hf.next_page({"Link": '</api/next?cursor=1>; rel="next"'}, url) == "https://huggingface.co/api/next?cursor=1"


@pytest.mark.parametrize(
    "link", ["https://evil.example/", "http://huggingface.co/", "//evil.example/", "https://h:8443/"]
)
def test_a_list_that_continues_elsewhere_is_refused(link: str) -> None:
    with pytest.raises(DownloadError, match="which is another host: set endpoint"):
        hf.next_page({"Link": f'<{link}>; rel="next"'}, "https://huggingface.co/api/models/a/b/tree/main")


def test_only_what_does_harm_is_unsafe() -> None:
    issues = [
        {"path": "a.pkl", "level": "unsafe"},
        {"path": "b.pkl", "level": "suspicious"},
        {"path": "c.pkl", "level": "caution"},
        "nonsense",
    ]
    assert hf.unsafe_files({"scansDone": True, "filesWithIssues": issues}) == {"a.pkl"}
    assert hf.unsafe_files({"scansDone": False}) == frozenset()
    assert hf.unsafe_files(None) == frozenset()


# Sentences


@pytest.mark.parametrize(
    ("status", "headers", "path", "expected"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, None, "is gated: accept its terms at .*T2I-Adapter, then set token"),
        (404, {"X-Error-Code": "RevisionNotFound"}, None, 'has no revision "main": correct revision'),
        (404, {"X-Error-Code": "EntryNotFound"}, "a.bin", 'has no file "a.bin" at revision main: see '),
        (404, {"X-Error-Code": "EntryNotFound"}, None, "has no such folder at revision main: see "),
        (404, {"X-Error-Code": "RepoNotFound"}, None, "^There is no .*, or it is private and needs a token: correct"),
        (401, {"X-Error-Code": "RepoNotFound"}, None, "missing, private or gated: correct repository and"),
        (401, {}, None, r"\(HTTP 401\), so it is missing, private or gated: correct repository and"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, None, "does not accept the token"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, None, "The hub has disabled"),
        (403, {}, None, r"let this request read .* \(HTTP 403\): set token to one"),
        (404, {}, None, "^There is no "),
        (429, {"RateLimit": '"api";r=0;t=55'}, None, "run this again in 55 seconds, or set token, with which"),
        (429, {"Retry-After": "7"}, None, "run this again in 7 seconds"),
        (429, {}, None, "run this again in five minutes"),
        (503, {}, None, r"has a fault of its own \(HTTP 503"),
        (451, {}, None, "refused .* with HTTP 451: open https://huggingface.co/TencentARC/T2I-Adapter in a browser"),
    ],
)
def test_each_status_is_one_sentence(status: int, headers: dict[str, str], path: str | None, expected: str) -> None:
    sentence = said(status, headers, path=path)
    assert re.search(expected, sentence)
    assert sentence.endswith(".")
    assert "model TencentARC/T2I-Adapter on https://huggingface.co" in sentence


def test_a_token_changes_what_a_status_means() -> None:
    assert "the token's account was not let in" in said(403, {"X-Error-Code": "GatedRepo"}, WITH_TOKEN)
    assert "does not accept the token" in said(401, {}, WITH_TOKEN)
    assert "(HTTP 403): give the token that permission" in said(403, {}, WITH_TOKEN)
    assert "or the token may not see it" in said(404, {"X-Error-Code": "RepoNotFound"}, WITH_TOKEN)
    assert said(429, {"Retry-After": "7"}, WITH_TOKEN).endswith("run this again in 7 seconds.")
