"""A store on S3, played by a server of our own: range reads, what is refused, and two who upload at once."""

from __future__ import annotations

import logging

import pytest
import torch

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError, ResourceError
from fractionate.store import Store, collect, compact, info, repair, upload, verify

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
ROWS, CLASSES = 6000, 20


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch, request):
    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    name = f"b{abs(hash(request.node.name)) % 10**12}"
    system.mkdir(name)
    yield f"s3://{name}", system
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(ROWS, CLASSES, generator=generator), torch.arange(ROWS) % CLASSES)


def twice(inputs):
    return inputs * 2


@pytest.fixture(scope="module")
def near(data, tmp_path_factory):
    return collect(twice, data, tmp_path_factory.mktemp("near") / "s")


@pytest.fixture
def counted(monkeypatch):
    """The bytes that come over the line."""
    found, cat = [], s3fs.S3FileSystem._cat_file

    async def counting(self, path, version_id=None, start=None, end=None):
        content = await cat(self, path, version_id, start, end)
        found.append((path, start, len(content)))
        return content

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", counting)
    return found


def test_a_store_on_s3_is_read_by_ranges_and_kept_in_a_verified_copy(
    near, data, counted, bucket, tmp_path, monkeypatch
):
    url, system = bucket
    monkeypatch.setattr("fractionate.store.remote.BLOCK", 8192)
    assert upload(near.path, f"{url}/s") == f"{url}/s"
    opened = Store.open(f"{url}/s", cache=tmp_path / "cache")
    counted.clear()
    assert torch.equal(opened.logits([5999, 0]), near.logits([5999, 0]))
    assert counted and all(start is not None for _, start, _ in counted)  # ranges, not files
    assert sum(size for _, _, size in counted) < near.shards[0].segment.bytes / 4
    counted.clear()
    assert torch.equal(opened.logits([5999, 0]), near.logits([5999, 0])) and not counted
    assert torch.equal(opened.signal().logits, near.signal().logits)
    assert info(f"{url}/s").rows == ROWS
    Store.open(f"{url}/s", cache=tmp_path / "cache", teacher=twice, data=data)
    with pytest.raises(MismatchError, match="says something else"):
        Store.open(f"{url}/s", cache=tmp_path / "cache", teacher=lambda x: x * 3, data=data)
    # the copy is trusted no more than the line
    copy = next(path for path in (tmp_path / "cache").rglob("*.safetensors") if path.parent.name == "shards")
    raw = bytearray(copy.read_bytes())
    raw[-9] ^= 1
    copy.write_bytes(raw)
    assert Store.open(f"{url}/s", cache=tmp_path / "cache").content() == near.content()
    # nor is the bucket
    name = next(name for name in system.find(f"{url}/s") if "/shards/" in name)
    system.pipe_file(name, bytes(raw))
    with pytest.raises(DamagedError):
        Store.open(f"{url}/s", cache=tmp_path / "other").signal()


def test_of_two_stores_uploaded_to_one_address_the_second_is_refused(near, data, bucket, tmp_path, monkeypatch):
    url, system = bucket
    other = collect(twice, Examples(data.inputs, (data.labels + 1) % CLASSES), tmp_path / "other")
    upload(near.path, f"{url}/s")
    assert upload(near.path, f"{url}/s") == f"{url}/s"  # what is there is left
    with pytest.raises(ConfigError, match="another store lies at"):
        upload(other.path, f"{url}/s")
    # both looked before either had written: the server decides (If-None-Match)
    real = system.exists
    looked = []

    def blind(self, path, **options):
        if str(path).endswith("head.json") and len(looked) < 2:
            looked.append(path)
            return False
        return real(path, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "exists", blind)
    with pytest.raises(ConfigError, match="another store lies at"):
        upload(other.path, f"{url}/s")
    assert len(looked) == 2
    monkeypatch.undo()
    assert system.cat_file(f"{url}/s/head.json") == (near.path / "head.json").read_bytes()


def test_what_another_writer_adds_is_seen(data, bucket, tmp_path):
    url, _ = bucket
    half = collect(twice, data, tmp_path / "s", part=(0, 2))
    upload(half.path, f"{url}/s")
    assert not Store.open(f"{url}/s", cache=tmp_path / "cache").complete
    whole = collect(twice, data, tmp_path / "s", part=(1, 2))
    upload(whole.path, f"{url}/s")
    assert Store.open(f"{url}/s", cache=tmp_path / "cache").content() == whole.content()


def test_what_cannot_be_done_far_away_is_said(near, data, bucket, tmp_path):
    url, _ = bucket
    for what in (
        lambda: collect(twice, data, f"{url}/s"),
        lambda: verify(f"{url}/s"),
        lambda: repair(f"{url}/s"),
        lambda: compact(f"{url}/s"),
    ):
        with pytest.raises(ConfigError, match=r"(?s)a store far away.*upload") as caught:
            what()
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="is not there"):
        Store.open(f"{url}/nothing", cache=tmp_path)
    with pytest.raises((ConfigError, ResourceError)):
        upload(near.path, "s3://nobody-has-this-bucket/s")
