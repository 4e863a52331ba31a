"""Role gateway, HAProxy's side: what its templates make of settings and servers, without HAProxy."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.plugins.filter import core as core_filters
from ansible.plugins.filter import mathstuff
from ansible.plugins.test import core as core_tests
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROLE = Path(__file__).parents[3] / "roles/gateway"
DEFAULTS: dict[str, Any] = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
VERSIONS = ["2.2", "2.6", "3.0"]
SECRETS = "/etc/sd-gateway/secrets.map"


def environment() -> Environment:
    made = Environment(
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(ROLE / "templates"),
        autoescape=False,
    )
    given = core_filters.FilterModule().filters() | mathstuff.FilterModule().filters()
    # But for this one, which asks for Ansible's own kind of what is not defined.
    made.filters |= {name: used for name, used in given.items() if name not in ("default", "d")}
    made.tests |= core_tests.TestModule().tests()
    return made


def rendered(template: str, **variables: Any) -> str:
    return environment().get_template(template).render(**{**DEFAULTS, "ansible_managed": "managed", **variables})


def server(name: str = "pc1", **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "address": "192.168.1.21",
        "port": 7860,
        "engine": "automatic1111",
        "health_path": "/internal/ping",
        "readiness_path": "/sdapi/v1/options",
        "txt2img_path": "/sdapi/v1/txt2img",
        "login": True,
        "login_file": "",
        "agent_port": 7861,
        "jobs": 1,
        "weight": 64,
        **given,
    }


def config(servers: list[dict[str, Any]] | None = None, version: str = "2.6", **given: Any) -> str:
    variables = {
        "__gateway_servers": [server()] if servers is None else servers,
        "__gateway_haproxy_version": version,
        "__gateway_mark": "m4rk",
        "_gateway_socket": "/run/sd-gateway/admin.sock",
        "_gateway_bind_addresses": ["*", "[::]"],
        "_gateway_certificate": "/etc/sd-gateway/certificate.pem",
        "_gateway_has_own_certificate": False,
        "_gateway_users_config": "/etc/sd-gateway/users.cfg",
        "_gateway_secrets": SECRETS,
        "_gateway_all_denied_paths": DEFAULTS["gateway_denied_paths"],
        "_gateway_generate_paths": ["/sdapi/v1/txt2img", "/sdapi/v1/img2img"],
        "gateway_activity_port": 7861,
    }
    return rendered("haproxy.cfg.j2", **{**variables, **given})


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each section, without comments."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line.startswith(" "):
            name = line
            assert name not in found, f"{name} is there twice"
            found[name] = []
        else:
            found[name].append(line.strip())
    return found


def servers_of(lines: list[str]) -> dict[str, str]:
    return {line.split()[1]: line for line in lines if line.startswith("server ")}


FLEET = [
    server("pc1", weight=256),
    server("pc2.lan", address="192.168.1.22"),
    server("pc3", address="fd00::3", weight=4),
]


# The configuration


@pytest.mark.parametrize("version", VERSIONS)
def test_every_server_is_in_every_backend(version: str) -> None:
    made = sections(config(FLEET, version))
    for backend in ("backend page", "backend generate", "backend generate_busy"):
        assert list(servers_of(made[backend])) == ["pc1", "pc2.lan", "pc3"], backend
    for each in FLEET:
        (line,) = servers_of(made[f"backend check_{each['name']}"]).values()
        assert f"{each['address']}:7860 check inter 5s" in line and "fall 3" in line
        assert (
            f"cookie {each['name']} track check_{each['name']}/{each['name']}"
            in servers_of(made["backend page"])[each["name"]]
        )
        assert f" weight {each['weight']} " in servers_of(made["backend generate"])[each["name"]]


def test_the_health_that_is_asked_for_is_the_engine_s_own() -> None:
    sd_server = server("cpp", engine="stable_diffusion_cpp", health_path="/sdapi/v1/options", login=False)
    made = sections(config([server("pc.1"), sd_server]))
    asked = {
        name: next(line for line in lines if line.startswith("http-check send"))
        for name, lines in made.items()
        if "option httpchk" in lines
    }
    assert " uri /internal/ping " in asked["backend check_pc.1"]
    assert " uri /sdapi/v1/options " in asked["backend check_cpp"]
    # One check for all of them: the name decides the path, and a dot in it is no wildcard.
    for backend in ("backend generate", "backend generate_busy"):
        assert "%[srv_name,regsub(^pc[.]1$,/sdapi/v1/options),regsub(^cpp$,/sdapi/v1/options)]" in asked[backend]


@pytest.mark.parametrize("version", VERSIONS)
def test_one_picture_at_a_time_and_again_elsewhere_when_a_server_dies(version: str) -> None:
    made = sections(config(FLEET, version, gateway_jobs_per_server="1"))
    for backend in ("backend generate", "backend generate_busy"):
        lines = made[backend]
        assert "balance leastconn" in lines and "option http-buffer-request" in lines and "option abortonclose" in lines
        assert "retry-on conn-failure empty-response response-timeout junk-response 502 503 504" in lines
        for line in servers_of(lines).values():
            # A dead server is always free, so it is left at once; 2.2 gives up requests that it was told to shut down.
            assert " maxconn 1 " in line and "observe layer4 error-limit 1 on-error mark-down" in line
            assert "on-marked-down" not in line
    assert "option redispatch 1" in made["defaults"] and "tune.bufsize 65536" in made["global"]
    assert not any("retry-on" in line for line in made["backend page"])


def test_what_2_2_does_not_know_or_does_not_survive() -> None:
    old, new = config(FLEET, "2.2"), config(FLEET, "2.6")
    for keyword in ("srvtcpka-idle", "agent-check", "wait-for-body"):
        assert keyword not in old and keyword in new
    assert config(FLEET, "2.2.9") == old and config(FLEET, "3.0") == new
    assert "agent-addr 192.168.1.22 agent-port 7861" in servers_of(sections(new)["backend generate"])["pc2.lan"]
    # What the page keeps busy gets more when all are, what is drained never does.
    assert 'agent-send "page\\n"' in servers_of(sections(new)["backend generate"])["pc2.lan"]
    assert 'agent-send "drain\\n"' in servers_of(sections(new)["backend generate_busy"])["pc2.lan"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_order_of_the_rules(version: str) -> None:
    lines = sections(config(version=version))["frontend https"]

    def place(text: str) -> int:
        (found,) = [number for number, line in enumerate(lines) if text in line] or [-1]
        assert found >= 0, text
        return found

    places = [
        place("sc0_conn_cur gt 100"),
        place("sc0_http_req_rate gt 600"),
        place("A page of another site"),
        place("Too many wrong passwords"),
        place("http_auth(sd_users)"),
        place("sc-inc-gpc0(0)"),
        place("http-request auth realm"),
        place("track-sc2 var(txn.key)"),
        place("^/internal/(sysinfo|profile-startup)"),
        place("points upwards"),
        place("if { req.hdr(transfer-encoding) -m found }"),
        place("gt 104857600"),
        place("set-header X-Forwarded-For"),
        place("set-header Authorization"),
        place("use_backend generate_busy"),
        place("default_backend page"),
    ]
    assert places == sorted(places)


def test_nobody_who_was_refused_is_remembered_as_logged_in() -> None:
    lines = sections(config())["frontend https"]
    refusal = next(number for number, line in enumerate(lines) if line.startswith("http-request auth"))
    tracking = [number for number, line in enumerate(lines) if "table sd_logins" in line]
    assert len(tracking) == 2 and min(tracking) > refusal
    # A password is hashed only for who is not known yet, and who has sent one.
    (hashing,) = [line for line in lines if "http_auth(" in line]
    assert hashing == "http-request set-var(txn.by) str(login) if !logged_in has_login { http_auth(sd_users) }"


def test_plain_http_does_nothing_but_redirect() -> None:
    lines = sections(config())["frontend http"]
    assert [line for line in lines if "backend" in line] == []
    assert lines[-1] == 'http-request redirect code 308 location "https://%[var(txn.host)]%[pathq]"'
    assert "https://%[var(txn.host)]:8443%[pathq]" in config(gateway_https_port="8443")


def test_where_it_listens() -> None:
    made = sections(config(gateway_http_port=8080))
    assert made["frontend http"][:2] == ["bind *:8080", "bind [::]:8080 v6only"]
    tls = " ssl crt /etc/sd-gateway/certificate.pem alpn h2,http/1.1"
    assert made["frontend https"][:2] == [f"bind *:443{tls}", f"bind [::]:443 v6only{tls}"]
    assert "bind 127.0.0.1:8405" in made["frontend stats"]
    assert "ssl-min-ver TLSv1.2" in "".join(made["global"])


def test_no_secret_stands_in_it() -> None:
    text = config(FLEET)
    assert "password" not in text.replace("wrong passwords", "")
    assert re.findall(r"map_str\(([^)]*)\)", text) == [SECRETS] * text.count("map_str(")
    assert f'set-header Authorization "Basic %[str(servers-login),map_str({SECRETS})]"' in text
    assert "hmac(sha256,txn.session_key)" in text


def test_an_engine_without_a_login_is_sent_none() -> None:
    text = config([server(login=False)])
    assert "http-request del-header Authorization" in text and "servers-login" not in text


def test_headers() -> None:
    lines = sections(config())["frontend https"]
    for header in ("X-Content-Type-Options nosniff", "X-Frame-Options SAMEORIGIN", "Referrer-Policy same-origin"):
        assert f"http-after-response set-header {header}" in lines
    assert "http-after-response del-header Server" in lines
    assert "Strict-Transport-Security" not in config()
    assert "Strict-Transport-Security" in config(_gateway_has_own_certificate=True)
    cookies = [line for line in lines if "Set-Cookie" in line]
    assert len(cookies) == 1 and "Secure; HttpOnly; SameSite=Strict" in cookies[0]
    assert "cookie SDSERVER insert indirect nocache httponly secure" in config()


def test_the_mark_and_the_limits() -> None:
    limits: dict[str, Any] = {
        "gateway_failed_logins_per_minute": "7",
        "gateway_requests_per_10s": "901",
        "gateway_connections_per_client": "33",
        "gateway_max_body_mib": "2",
    }
    text = config(**limits)
    assert 'description "sd-gateway m4rk"' in text
    for limit in (
        "sc0_gpc0_rate ge 7 ",
        "sc0_http_req_rate gt 901 ",
        "sc0_conn_cur gt 33 ",
        "content-length) -m int gt 2097152 ",
    ):
        assert limit in text, limit


def test_what_would_slip_past_a_rule() -> None:
    text = config()
    # url_dec gives up at a percent sign that encodes nothing, and then no rule sees a path.
    assert "regsub('%(?![0-9A-Fa-f]{2})','%25',g),url_dec," in text and "unless { var(txn.path) -m found }" in text
    # http_auth and req.hdr do not mean the same one of two.
    assert "if { req.hdr_cnt(authorization) gt 1 }" in text
    # It has 32 bits.
    assert "req.hdr_val(" not in text


@pytest.mark.parametrize("version", VERSIONS)
def test_no_request_hides_behind_another(version: str) -> None:
    made = sections(config(version=version))
    lines = made["frontend https"]
    # cpp-httplib goes on reading where a body was that it did not want, unless it has been told to close.
    assert "option http-server-close" in made["defaults"]
    # It is not told so with an upgrade.
    upgrades = [line for line in lines if "A request for another protocol has no body." in line]
    assert [line.rpartition(" if ")[2] for line in upgrades] == [
        "has_length { req.hdr(connection),lower -m sub upgrade }",
        "has_length upgrades",
    ]
    # HAProxy 2.2 sends what follows a CONNECT at once.
    (methods,) = [line for line in lines if "return status 405" in line]
    assert methods.endswith("unless { method GET HEAD POST PUT PATCH DELETE }")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_does_nothing_keeps_nothing(version: str) -> None:
    lines = sections(config(version=version))["defaults"]
    # It is also for handshakes, and for answers that nobody takes: those keep a server's only place.
    assert "timeout client 1m" in lines and "timeout server 2h" in lines and "timeout queue 2h" in lines


@pytest.mark.parametrize("version", VERSIONS)
def test_the_process_before_a_reload_soon_answers_nobody(version: str) -> None:
    lines = sections(config(version=version))["frontend https"]
    begins = "http-request set-var(sess.stopping) date if { stopping } !{ var(sess.stopping) -m found }"
    (refusal,) = [line for line in lines if "txn.stopping) -m int gt 10" in line]
    login = next(number for number, line in enumerate(lines) if "in_table(sd_logins)" in line)
    assert lines.index(begins) < lines.index(refusal) < login


def test_no_other_site_reads_either() -> None:
    lines = sections(config())["frontend https"]
    assert "http-request set-var(txn.elsewhere) bool(true) if has_origin !own_origin" in lines


def understood(path: str) -> str:
    """As the rules see a path."""
    return re.sub("/+", "/", urllib.parse.unquote(path.partition("?")[0]))


def is_denied(path: str) -> bool:
    return any(re.search(pattern, understood(path), re.IGNORECASE) for pattern in DEFAULTS["gateway_denied_paths"])


@pytest.mark.parametrize(
    "path",
    [
        "/internal/sysinfo",
        "//internal/sysinfo-download?attachment",
        "/%69nternal%2fsysinfo",
        "/internal/profile-startup",
        "/sdapi/v1/cmd-flags",
        "/SDAPI/v1/cmd-flags",
        "/sdapi/v1/server-kill",
        "/sdapi/v1/server-restart/",
        "/sdapi/v1//server-stop",
        "/sdapi/v1/extensions/install",
    ],
)
def test_what_leaks_or_controls_is_denied(path: str) -> None:
    assert is_denied(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/internal/progress",
        "/internal/quicksettings-hint",
        "/internal/ping",
        "/internal/pending-tasks",
        "/sdapi/v1/txt2img",
        "/sdapi/v1/extensions",
        "/queue/join",
        "/file=/srv/sd/outputs/internal/sysinfo.png",
    ],
)
def test_what_the_page_needs_is_not(path: str) -> None:
    assert not is_denied(path)


# The servers


def asked(item: str, engine: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    told = {"engine": engine, "profile": "gpu_medvram", "benchmark": None, "address": "192.168.1.99", **given}
    return {"item": item, "told": told}


def engine(address: str = "192.168.1.21", **given: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "engine": "automatic1111",
        "address": address,
        "port": 7860,
        "health_path": "/internal/ping",
        "readiness_path": "/sdapi/v1/options",
        "txt2img_path": "/sdapi/v1/txt2img",
        "auth_file": "/etc/sd-webui/login",
        **given,
    }


def found(*results: dict[str, Any], contract: dict[str, Any] | None = None, **hostvars: Any) -> dict[str, Any]:
    answer = rendered(
        "servers.json.j2",
        __gateway_asked=list(results),
        __gateway_seen={"contract": contract or {}},
        inventory_hostname="gw",
        hostvars={result["item"]: hostvars.get(result["item"], {}) for result in results},
    )
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


def test_servers_and_how_they_are_reached() -> None:
    told = found(
        asked("gw", engine("127.0.0.1")),
        asked("pc1", engine()),
        asked("pc2", engine("0.0.0.0", auth_file=None)),
        asked("pc4", engine("::1")),
    )
    places = {each["name"]: (each["address"], each["login"], each["login_file"]) for each in told["servers"]}
    assert places == {
        "gw": ("127.0.0.1", True, "/etc/sd-webui/login"),
        "pc1": ("192.168.1.21", True, ""),
        "pc2": ("192.168.1.99", False, ""),
    }
    (warning,) = told["warnings"]
    assert warning.startswith("pc4 listens on its own loopback address only and is left out;")


def test_whoever_cannot_be_asked_stays_if_it_is_known() -> None:
    before = server("pc1", weight=99)
    gone: dict[str, Any] = {"told": {}}
    told = found({"item": "pc1", **gone}, {"item": "pc2", **gone}, asked("pc3"), contract={"servers": [before]})
    assert told["servers"] == [before]
    assert [warning.split(" ")[0] for warning in told["warnings"]] == ["pc1", "pc2", "pc3"]
    assert all(warning.endswith(".") for warning in told["warnings"])


def test_weights() -> None:
    fast = {"schema": 1, "preset": "sd15", "seconds_per_iteration": 0.5, "device": "GPU"}
    told = found(
        asked("pc1", engine(), benchmark=fast),
        asked("pc2", engine(), benchmark={**fast, "seconds_per_iteration": 2}),
        asked("pc3", engine(), benchmark={**fast, "seconds_per_iteration": 1000}),
        asked("pc4", engine(), benchmark={**fast, "preset": "sdxl", "seconds_per_iteration": 9}),
        asked("pc5", engine()),
        asked("pc6", engine(), profile="cpu"),
        asked("pc7", engine(), benchmark=fast),
        pc7={"gateway_weight": "17", "gateway_activity_port": "7999"},
    )
    assert [each["agent_port"] for each in told["servers"]] == [7861] * 6 + [7999]
    assert [each["weight"] for each in told["servers"]] == [256, 64, 1, 256, 64, 4, 17]
    assert all(set(each) == set(server()) for each in told["servers"])


# The preflight


def problems(**given: Any) -> list[str]:
    variables: dict[str, Any] = {
        "ansible_facts": {"distribution": "Debian", "distribution_major_version": "12", "service_mgr": "systemd"},
        "hostvars": {"gw": {}, "pc1": {}},
        "_gateway_debian_versions": {"11": "2.2", "12": "2.6", "13": "3.0"},
        "gateway_activity_port": 7861,
        **given,
    }
    seen = {"version": "", "taken": [], "own_problem": "", "addresses": {"all": ["127.0.0.1", "192.168.1.5"]}}
    variables["__gateway_seen"] = {**seen, **given.get("seen", {})}
    variables.setdefault("_gateway_given_servers", ["gw", "pc1"])
    variables.setdefault("_gateway_given_users", [{"name": "sd"}])
    variables.setdefault("_gateway_given_names", [])
    variables.setdefault("_gateway_all_denied_paths", DEFAULTS["gateway_denied_paths"])
    return [line.strip() for line in rendered("problems.j2", **variables).splitlines() if line.strip()]


def test_settings_that_are_fine() -> None:
    assert problems() == []
    assert problems(_gateway_given_names=["pc.example.org", "*.lan", "192.168.1.7", "fd00::1"]) == []
    assert (
        problems(
            gateway_https_port="8443", gateway_max_body_mib="5", hostvars={"gw": {"gateway_weight": "256"}, "pc1": {}}
        )
        == []
    )


TAKEN = {"port": 443, "pid": "77", "unit": "nginx.service", "command": "nginx"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"_gateway_given_servers": []}, "gateway_servers is empty"),
        ({"_gateway_given_servers": ["nobody"]}, 'there is no host "nobody"'),
        ({"hostvars": {"gw": {"gateway_weight": 257}, "pc1": {}}}, 'gateway_weight "257" of gw'),
        ({"hostvars": {"gw": {"gateway_weight": "fast"}, "pc1": {}}}, 'gateway_weight "fast" of gw'),
        ({"hostvars": {"gw": {}, "pc1": {"gateway_jobs_per_server": 0}}}, 'gateway_jobs_per_server "0" of pc1'),
        ({"gateway_http_port": 443}, "gateway_https_port and gateway_http_port are the same port, 443"),
        ({"gateway_stats_port": "7861"}, "gateway_stats_port and gateway_activity_port are the same port"),
        ({"gateway_https_port": 70000}, 'gateway_https_port "70000"'),
        ({"seen": {"taken": [TAKEN]}}, "port 443 is taken by nginx (unit and process id: nginx.service, 77)"),
        ({"seen": {"own_problem": "it is old; renew it."}}, "cannot be used: it is old; renew it."),
        ({"gateway_certificate_key_file": "/root/key.pem"}, "gateway_certificate_key_file is set without"),
        ({"gateway_listen_address": "10.0.0.1"}, 'gateway_listen_address "10.0.0.1"'),
        ({"_gateway_given_names": ["a b"]}, '"a b" is neither a name nor an address'),
        ({"_gateway_given_users": []}, "gateway_users names nobody"),
        ({"_gateway_given_users": [{"password": "long enough"}]}, "entry 1 of gateway_users has no name"),
        ({"_gateway_given_users": [{"name": "a:b"}]}, "entry 1 of gateway_users has no name"),
        ({"_gateway_given_users": [{"name": "sd"}, {"name": "sd"}]}, "gateway_users names sd twice"),
        ({"_gateway_given_users": [{"name": "sd", "password": "short"}]}, "the password of sd"),
        ({"_gateway_given_users": [{"name": "sd", "password": "long\nenough"}]}, "the password of sd"),
        ({"gateway_password_rounds": 10}, "gateway_password_rounds"),
        ({"_gateway_all_denied_paths": ["it's"]}, "has a quotation mark"),
        ({"seen": {"version": "1.8"}}, "HAProxy 1.8 is too old"),
        (
            {"ansible_facts": {"distribution": "Ubuntu", "distribution_major_version": "24", "service_mgr": "systemd"}},
            "this is Ubuntu 24",
        ),
    ],
)
def test_settings_that_cannot_work(given: dict[str, Any], words: str) -> None:
    (sentence,) = problems(**given)
    assert words in sentence and sentence.endswith(".")
    assert "short" not in sentence.replace("shorter", "") and "enough" not in sentence


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert (
        len(problems(_gateway_given_servers=[], gateway_http_port=443, gateway_max_body_mib=0, _gateway_given_users=[]))
        == 4
    )


# What is told to others


def test_the_contract() -> None:
    told = json.loads(
        rendered(
            "gateway.json.j2",
            _gateway_url="https://pc/",
            _gateway_has_own_certificate=False,
            _gateway_unit="sd-gateway.service",
            __gateway_servers=[server()],
        )
    )
    assert (told["schema"], told["certificate"], told["stats"], told["unit"]) == (
        1,
        "self-signed",
        "127.0.0.1:8405",
        "sd-gateway.service",
    )
    assert told["servers"][0].keys() >= {"name", "address", "port", "engine", "weight"}
    assert "login" not in json.dumps(told["servers"][0]).replace('"login"', "").replace('"login_file"', "")
