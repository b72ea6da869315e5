from quantkit.caches.files import CalibrationFiles


def test_every_member_names_its_set(tmp_path):
    files = CalibrationFiles.of_model("elsewhere/m.onnx", tmp_path)
    members = (files.table, files.tensorrt_cache, files.statistics, files.checkpoint, *files.models)
    assert [path.name for path in members] == [
        "m.calib.json",
        "m.calib",
        "m.calib.stats",
        "m.calib.partial",
        "m.int8.onnx",
        "m.int8-cpu.onnx",
    ]
    assert [CalibrationFiles.of_member(path) for path in members] == [files] * len(members)
    assert [path.name for path in (files.lock, files.engine, files.engine_manifest)] == [
        ".m.calib.lock",
        "m.int8.engine",
        "m.int8.engine.json",
    ]


def test_other_names_belong_to_no_set(tmp_path):
    for name in ("m.onnx", "x.json", ".calib", "m.calib.old"):
        assert CalibrationFiles.of_member(tmp_path / name) is None


def test_a_table_of_any_name_has_its_statistics_beside_it(tmp_path):
    files = CalibrationFiles(tmp_path / "d.json")
    assert [p.name for p in (files.statistics, files.checkpoint, files.lock)] == [
        "d.stats",
        "d.partial",
        ".d.calib.lock",
    ]
