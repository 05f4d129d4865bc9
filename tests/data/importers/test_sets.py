"""Public sets, each on files of its published schema with its quirks, written here: what becomes of every row."""

import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from editcaption_mega.data import open_shards
from editcaption_mega.data.importers import FORMATS, Candidate, ImportOptions, Rejected
from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.importers.sets import SETS
from tests.helpers.image_bytes import encoded, photo

SOURCE, TARGET = encoded(photo()), encoded(photo(9, 7), "JPEG")
OTHER = encoded(photo(11, 8))


def read(path, kind, **options):
    return list(FORMATS[kind].read(str(path), ImportOptions(**options)))


def picture(data=SOURCE):
    return {"bytes": data, "path": None}


def parquet(path, rows, schema=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def texts(rows):
    return [row.pair.instruction if isinstance(row, Candidate) else row.reason for row in rows]


def test_every_set_is_in_the_page_of_data():
    from tests.docs.pages import ROOT

    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for entry in SETS:
        assert f"`{entry.name}`" in page, f"docs/data.md says nothing of {entry.name}"


def test_ultraedit_has_int64_ids_null_columns_and_masks(tmp_path):
    schema = pyarrow.schema([
        ("clip_sim_source", pyarrow.float64()), ("ssim", pyarrow.float64()), ("source_caption", pyarrow.string()),
        ("idx", pyarrow.int64()), ("edit_prompt", pyarrow.string()), ("edit_object", pyarrow.null()),
        *((name, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
          for name in ("source_image", "edited_image", "mask_image")),
    ])  # fmt: skip
    row = {"ssim": 0.8, "source_caption": "a dog", "idx": 1 << 40, "edit_prompt": "Add a hat.",
           "source_image": picture(), "edited_image": picture(TARGET)}  # fmt: skip
    rows = [row, row | {"mask_image": picture(OTHER)}, row | {"edited_image": None}, dict.fromkeys(row)]
    parquet(tmp_path / "FreeForm_0-00000-of-00002.parquet", rows, schema)
    with pytest.raises(InputError, match="--format ultraedit does not say what kind of edits it holds"):
        read(tmp_path, "ultraedit")
    first, masked, lost, null = read(tmp_path, "ultraedit", category="semantic")
    assert (first.pair.id, first.pair.instruction, first.target) == ("ultraedit-000001", "Add a hat.", TARGET)
    provenance = first.pair.provenance
    assert (provenance["idx"], provenance["ssim"], provenance["licence"]) == (1 << 40, 0.8, "CC-BY-4.0")
    assert "dropped" not in provenance and "mask_image" in masked.pair.provenance["dropped"]
    assert lost.reason == "column 'edited_image' holds no picture"
    assert null.reason == "column 'source_image' holds no picture"


def test_imgedit_holds_paths_in_lists_and_the_type_in_the_name_of_the_file(tmp_path):
    for number in (1, 2):
        put(tmp_path / f"tars/results_remove/{number}/original.png", SOURCE)
        put(tmp_path / f"tars/results_remove/{number}/result.png", TARGET)
    row = {"input_images": ["results_remove/1/original.png"], "output_images": ["results_remove/1/result.png"]}
    parquet(tmp_path / "Parquet/remove_part5.parquet", [row | {"prompt": "Remove the people."}])
    second = [
        row | {"prompt": "Take it out.", "input_images": [*row["input_images"], "results_remove/2/original.png"]},
        row | {"prompt": "Take it out.", "output_images": []},
        row | {"prompt": None},
        row | {"prompt": "Gone.", "input_images": ["results_remove/9/original.png"]},
    ]
    parquet(tmp_path / "Parquet/reference_replace_part1.parquet", second)
    parquet(tmp_path / "Parquet/sideways_part0.parquet", [row | {"prompt": "Turn it."}])
    (tmp_path / "Parquet/all_dataset_gpt_score.json").write_text("{}")
    rows = read(tmp_path / "Parquet", "imgedit", images=str(tmp_path / "tars"))
    assert "holds 2 pictures, expected one: what needs several is no pair" in rows[0].reason
    assert rows[1].reason.startswith("column 'output_images' holds 0 pictures")
    assert rows[2].pair.instruction is None and rows[2].pair.edit_type == "reference_replace"
    assert "results_remove/9/original.png' not found" in rows[3].reason
    assert (rows[4].pair.edit_type, rows[4].pair.category) == ("remove", "semantic") and rows[4].source == SOURCE
    assert rows[4].paths == ("results_remove/1/original.png", "results_remove/1/result.png")
    assert "edit type 'sideways' is in no category that is known here" in rows[5].reason


PICO = {
    "open_image_input_url": "https://pictures.example/a_o.jpg", "text": "Add a bright red kite above the beach.",
    "output_image": "images/sft/1.png", "edit_type": "Add a new object to the scene",
    "summarized_text": "Add a kite.", "local_input_image": None,
}  # fmt: skip


def test_pico_banana_has_sentences_for_types_and_sources_that_may_not_be_there(tmp_path):
    put(tmp_path / "images/sft/1.png", TARGET)
    put(tmp_path / "train_0/a.jpg", SOURCE)
    here = PICO | {"local_input_image": str(tmp_path / "train_0/a.jpg")}
    rows = [
        here,
        here | {"edit_type": "Photo → cartoon/sketch/comic", "text": ""},
        PICO,
        {name: value for name, value in PICO.items() if name != "local_input_image"},
        here | {"edit_type": "Change overall color tone (warm ↔ cool)", "output_image": "images/sft/2.png"},
        here | {"edit_type": "Make it better"},
    ]
    lines(tmp_path / "sft_with_local_source_image_path.jsonl", rows)
    kite, comic, unmapped, published, missing, unknown = read(tmp_path, "pico-banana")
    assert (kite.pair.category, kite.pair.instruction) == ("semantic", PICO["text"])
    assert kite.pair.provenance["other_instructions"] == ["Add a kite."]
    assert kite.pair.provenance["open_image_input_url"] == PICO["open_image_input_url"]
    assert kite.pair.provenance["licence"] == "CC-BY-NC-ND-4.0"
    assert (comic.pair.category, comic.pair.instruction) == ("stylistic", "Add a kite.")
    assert "column 'local_input_image' holds no picture: the set has addresses of its sources" in unmapped.reason
    assert "map_openimage_url_to_local.py adds local_input_image" in published.reason
    assert "images/sft/2.png' not found" in missing.reason
    assert "edit type 'Make it better' is in no category" in unknown.reason


def session(folder):
    for name in ("t1", "t2", "t3"):
        put(folder / f"images/multi-turn/{name}.png", encoded(photo(9, 5 + int(name[1]))))
    put(folder / "a.jpg", SOURCE)
    return {
        "files": [
            {"id": "edit_turn1", "url": "images/multi-turn/t1.png"},
            {"id": "edit_turn2", "url": "images/multi-turn/t2.png"},
            {"id": "final_image", "url": "images/multi-turn/t3.png"},
            {"id": "original_input_image", "url": "https://pictures.example/a_o.jpg"},
        ],
        "metadata_edit_turn_prompts": ["Warm it up", "Zoom in on the car.", "把车换成飞机"],
        "local_input_image": "a.jpg",
    }  # fmt: skip


def test_a_session_of_pico_banana_is_a_pair_for_each_turn_or_one_from_first_to_last(tmp_path):
    lines(tmp_path / "multi_turn.jsonl", [session(tmp_path)])
    with pytest.raises(InputError, match="does not say what kind of edits"):
        read(tmp_path, "pico-banana-multi-turn")
    rows = read(tmp_path, "pico-banana-multi-turn", category="stylistic")
    assert [row.pair.id for row in rows] == [f"pico-banana-multi-turn-000001-t{n}" for n in (1, 2, 3)]
    assert texts(rows) == ["Warm it up", "Zoom in on the car.", "把车换成飞机"]
    assert rows[0].source == SOURCE and all(a.target == b.source for a, b in zip(rows, rows[1:], strict=False))
    assert rows[2].target == (tmp_path / "images/multi-turn/t3.png").read_bytes()
    assert (rows[1].pair.provenance["turn"], rows[1].pair.provenance["turns"]) == (2, 3)
    assert rows[1].pair.provenance["files"][3]["url"] == "https://pictures.example/a_o.jpg"
    (whole,) = read(tmp_path, "pico-banana-multi-turn", turns="first-to-last")
    assert (whole.pair.id, whole.pair.category) == ("pico-banana-multi-turn-000001-all", "structural")
    assert whole.pair.edit_type == "multi_turn" and (whole.source, whole.target) == (SOURCE, rows[2].target)
    assert whole.pair.instruction == "Warm it up. Zoom in on the car. 把车换成飞机。"
    both = read(tmp_path, "pico-banana-multi-turn", category="semantic", turns="both")
    assert [row.pair.id[-3:] for row in both] == ["-t1", "-t2", "-t3", "all"]


def test_a_session_that_lacks_a_picture_loses_the_turns_beside_it_alone(tmp_path):
    rows = [session(tmp_path), session(tmp_path), session(tmp_path), session(tmp_path)]
    del rows[0]["files"][1]
    rows[1]["metadata_edit_turn_prompts"] = None
    rows[2]["local_input_image"] = None
    rows[3]["metadata_edit_turn_prompts"] = ["Warm it up"]
    lines(tmp_path / "multi_turn.jsonl", rows)
    found = read(tmp_path, "pico-banana-multi-turn", category="semantic")
    assert [type(row) for row in found[:3]] == [Candidate, Rejected, Rejected]
    assert found[1].reason == "column 'target' holds no picture" and found[1].id.endswith("-000001-t2")
    assert "the session has no turns" in found[3].reason and found[3].number == 2
    assert [type(row) for row in found[4:7]] == [Rejected, Candidate, Candidate]
    assert "map_openimage_url_to_local.py" in found[4].reason
    assert found[7].pair.provenance["turns"] == 1
    (*_, single) = read(tmp_path, "pico-banana-multi-turn", turns="first-to-last")
    assert "the session has one turn" in single.reason


def test_a_session_of_imgedit_may_begin_with_an_instruction_for_all_of_it(tmp_path):
    for n in range(3):
        put(tmp_path / f"r/origin_{n}.png", encoded(photo(9, 5 + n)))
        put(tmp_path / f"r/result_{n}.png", encoded(photo(10, 5 + n)))

    def turn(n, prompt):
        return {"input_images": [f"r/origin_{n}.png"], "output_images": [f"r/result_{n}.png"], "prompt": prompt}

    turns = [turn(0, "Add a vest"), turn(1, "Make it brown"), turn(2, "Take the last change back")]
    spoken = {"input_images": None, "output_images": None, "prompt": "Keep everything blue."}
    parquet(tmp_path / "content_memory_part2.parquet", [{"data": [spoken, *turns[1:]]}, {"data": turns}, {"data": []}])
    rows = read(tmp_path, "imgedit-multi-turn", category="semantic", turns="both")
    assert texts(rows[:3]) == [
        "Make it brown",
        "Take the last change back",
        "Keep everything blue. Make it brown. Take the last change back.",
    ]
    assert rows[0].pair.provenance["session_instructions"] == ["Keep everything blue."]
    assert rows[6].source == (tmp_path / "r/origin_0.png").read_bytes()
    assert rows[6].target == (tmp_path / "r/result_2.png").read_bytes()
    assert "column 'data' holds no list of turns" in rows[7].reason and len(rows) == 8


def test_gpt_image_edit_begins_its_paths_at_the_folder_of_the_task(tmp_path):
    for task in ("omniedit/addition", "hqedit/edit", "omniedit/complex-edit"):
        name = task.partition("/")[2]
        put(tmp_path / task / "input/1.png", SOURCE)
        put(tmp_path / task / "output/1.png", TARGET)
        row = {"id": f"x_{name}_1", "dataset_source": "x", "task": name, "input": "input/1.png",
               "output": "output/1.png", "instruction": f"Do {name}.", "instruction_type": "original",
               "input_description": ""}  # fmt: skip
        path = tmp_path / task / "metadata" / "m.json"
        path.parent.mkdir()
        path.write_text(json.dumps([row, row | {"output": "output/2.png"}]))
    rows = read(tmp_path, "gpt-image-edit")
    assert "edit type 'edit' is in no category" in rows[0].reason
    assert [rows[i].pair.category for i in (2, 4)] == ["semantic", "structural"]
    assert "omniedit/addition/output/2.png' not found" in rows[3].reason
    assert rows[4].pair.provenance["id"] == "x_complex-edit_1"


def test_nhr_edit_is_parquet_or_lines_and_may_name_several_edits(tmp_path):
    row = {"sample_id": "7", "edit_instruction": "Remove the cup.", "category": "Remove object", "style": "photo",
           "augmented_instructions": ["Take the cup away.", "Remove the cup."]}  # fmt: skip
    pictures = {"source_image": picture(), "edited_image": picture(TARGET)}
    types = ["Remove object", "Add object and Remove object", "Add object and Change color", "Change the mood", None]
    parquet(tmp_path / "p/train-0.parquet", [row | pictures | {"category": name} for name in types])
    rows = read(tmp_path / "p", "nhr-edit")
    assert [row.pair.category for row in rows[:3]] == ["semantic", "semantic", "structural"]
    assert rows[0].pair.provenance["other_instructions"] == ["Take the cup away."]
    assert "edit type 'Change the mood'" in rows[3].reason and rows[4].reason == "column 'category' is empty"
    put(tmp_path / "l/images/00/a_original.jpg", SOURCE)
    put(tmp_path / "l/images/00/a_edited_1.jpg", TARGET)
    names = {"source_file_name": "images/00/a_original.jpg", "edited_file_name": "images/00/a_edited_1.jpg"}
    lines(tmp_path / "l/metadata.jsonl", [row | names])
    (of_a_file,) = read(tmp_path / "l", "nhr-edit")
    assert of_a_file.target == TARGET and of_a_file.pair.provenance["licence"] == "Apache-2.0"


def test_scaleedit_holds_plain_bytes_and_counts_its_ids_anew_in_each_task(tmp_path):
    row = {"id": 0, "edit_instruction": "Add a barrier.", "source_image": SOURCE, "edited_image": TARGET,
           "source_image_width": 2000, "instruction_following_score": 3}  # fmt: skip
    for folder, task in (("1.2_tone_adjustment", "tone_adjustment"), ("4.2_gui", "gui_interface_text_editing")):
        parquet(tmp_path / folder / f"{task}_0000.parquet", [row | {"edit_task": task}, row | {"edit_task": None}])
    rows = read(tmp_path, "scaleedit")
    assert [row.pair.category for row in rows[::2]] == ["stylistic", "structural"]
    assert [row.pair.id for row in rows[::2]] == ["scaleedit-000001", "scaleedit-000003"], "ids of the set come twice"
    assert rows[0].pair.provenance["id"] == 0 and rows[0].pair.provenance["instruction_following_score"] == 3
    assert rows[1].reason == "column 'edit_task' is empty"
    (rows[0], *_) = read(tmp_path, "scaleedit", license="CC-BY-NC-SA-4.0")
    assert rows[0].pair.provenance["licence"] == "CC-BY-NC-SA-4.0"


def unicedit(**change):
    row = {"key": "b8576e80", "edit_task": "Scene Editing", "edit_subtask": "Background Change", "src_image": picture(),
           "edit_image": picture(TARGET), "prompt_cn": "将背景替换为夜晚。", "prompt_en": "Make it night."}  # fmt: skip
    return row | change


def test_unicedit_has_chinese_beside_english_keys_twice_and_a_sentence_for_a_type(tmp_path):
    rows = [
        unicedit(),
        unicedit(prompt_en="Make it noon, with a sign '你好'.", prompt_cn="改成中午", edit_image=picture(OTHER)),
        unicedit(edit_subtask="修复精灵球的破裂部分，并在其旁边添加一个小型的精灵球。"),
        unicedit(prompt_cn=None, edit_subtask="Shape-Size Alteration"),
    ]
    parquet(tmp_path / "data/train-00067-of-00681.parquet", rows)
    night, noon, dirty, english = read(tmp_path, "unicedit")
    assert (night.pair.instruction, night.pair.provenance["other_instructions"]) == (
        "Make it night.",
        ["将背景替换为夜晚。"],
    )
    assert night.pair.id != noon.pair.id and noon.pair.provenance["key"] == "b8576e80"
    assert "is in no category that is known here" in dirty.reason
    assert english.pair.category == "structural"
    chinese = read(tmp_path, "unicedit", language="zh")
    assert texts(chinese[:2]) == ["将背景替换为夜晚。", "改成中午"]
    assert chinese[1].pair.provenance["other_instructions"] == ["Make it noon, with a sign '你好'."]
    assert "no instruction is in the language 'zh'" in chinese[3].reason
    assert texts(read(tmp_path, "unicedit", language="en")[:2]) == [
        "Make it night.",
        "Make it noon, with a sign '你好'.",
    ]
    report = ingest(read(tmp_path, "unicedit"), tmp_path / "out")
    assert (report.accepted, report.rejected) == (2, 2), "the fourth has the pictures and the text of the first"
    assert open_shards(tmp_path / "out").ids == ["unicedit-000001", "unicedit-000002"]


def tar(samples, members=("1.0.jpg", "2.jpg", "json", "txt")):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for key, record in samples:
            contents = {"1.0.jpg": TARGET, "1.1.jpg": OTHER, "2.jpg": SOURCE, "json": json.dumps(record).encode(),
                        "txt": record["instruction"].encode()}  # fmt: skip
            for member in members:
                info = tarfile.TarInfo(f"{key}.{member}")
                info.size = len(contents[member])
                archive.addfile(info, io.BytesIO(contents[member]))
    return out.getvalue()


def test_x2edit_is_webdataset_whose_tars_may_be_joined_and_whose_texts_may_be_chinese(tmp_path):
    def record(task, instruction, **more):
        return {"task": task, "instruction": instruction, "model": "kontext", "score_7b": "[9, 9]"} | more

    first = [("000000000", record("subject_deletion", "Remove the cat.", instruction_zh="去掉猫。"))]
    second = [("000000000", record("颜色更改", "把车改成红色", instruction_en="Make the car red.")),
              ("000000001", record("action_change", ""))]  # fmt: skip
    put(tmp_path / "X2Edit_data/kontext/0/00001.tar", tar(first) + tar(second))
    flux = tar([("0", record("text_change", "将“好”改为“坏”。"))], ("1.0.jpg", "1.1.jpg", "2.jpg", "json"))
    put(tmp_path / "X2Edit_data/textflux/0/00001.tar", flux)
    alone = tar([("0", record("证件照生成", "做一张"))], ("json",))
    put(tmp_path / "X2Edit_data/textflux/0/00002.tar", alone)
    rows = read(tmp_path, "x2edit")
    assert len(rows) == 5, "the second of two joined tars is read, too"
    assert [row.pair.category for row in rows[:4]] == ["semantic", "stylistic", "structural", "structural"]
    assert texts(rows[:4]) == ["Remove the cat.", "把车改成红色", None, "将“好”改为“坏”。"]
    assert rows[0].pair.provenance["json"] == {"model": "kontext", "score_7b": "[9, 9]"}
    assert rows[1].pair.provenance["__key__"] == "000000000" and rows[0].pair.id != rows[1].pair.id
    assert "1.1.jpg" in rows[3].pair.provenance["dropped"]
    assert "there is no column '1.0.jpg'" in rows[4].reason
    assert texts(read(tmp_path, "x2edit", language="en")[:2]) == ["Remove the cat.", "Make the car red."]
    assert texts(read(tmp_path, "x2edit", language="zh")[:2]) == ["去掉猫。", "把车改成红色"]


def test_seed_data_edit_is_lines_with_paths_and_sessions_of_up_to_five_turns(tmp_path):
    put(tmp_path / "images/a.jpg", SOURCE)
    for n in (1, 2):
        put(tmp_path / f"images/a{n}.jpg", encoded(photo(9, 5 + n)))
    pair = {"source_image": "a.jpg", "target_image": "a1.jpg", "instruction": "Add a hat."}
    lines(tmp_path / "pairs/split.jsonl", [pair, pair | {"target_image": None}])
    good, bad = read(tmp_path / "pairs", "seed-data-edit", images=str(tmp_path / "images"), category="semantic")
    assert good.pair.provenance["licence"] == "CC-BY-NC-4.0" and bad.reason == "column 'target_image' holds no picture"
    whole = {"source_image": "a.jpg", "edit_image_1": "a1.jpg", "instruction_1": "Add a hat.", "edit_image_2": "a2.jpg",
             "instruction_2": "Make it blue."}  # fmt: skip
    lines(tmp_path / "turns/split_0001.jsonl", [whole])
    options = {"images": str(tmp_path / "images"), "category": "semantic", "turns": "both"}
    rows = read(tmp_path / "turns", "seed-data-edit-multi-turn", **options)
    assert texts(rows) == ["Add a hat.", "Make it blue.", "Add a hat. Make it blue."]
    assert rows[1].source == rows[0].target and rows[2].source == rows[0].source and rows[2].target == rows[1].target


def test_instructpix2pix_is_also_the_folders_that_it_was_published_as(tmp_path):
    put(tmp_path / "0000001/111_0.jpg", SOURCE)
    put(tmp_path / "0000001/111_1.jpg", TARGET)
    put(tmp_path / "0000001/222_0.jpg", TARGET)
    prompt = {"input": "a dog", "edit": "make it a cat", "output": "a cat"}
    put(tmp_path / "0000001/prompt.json", json.dumps(prompt).encode())
    seeds = [["0000001", ["111", "222"]], ["0000002", ["1", "2", "3"]], "0000003", ["0000001", []]]
    put(tmp_path / "seeds.json", json.dumps(seeds).encode())
    rows = read(tmp_path, "instructpix2pix", category="semantic")
    assert FORMATS["instructpix2pix"].count(str(tmp_path), ImportOptions()) == 7
    assert rows[0].pair.instruction == "make it a cat" and (rows[0].source, rows[0].target) == (SOURCE, TARGET)
    assert rows[0].pair.provenance["input"] == "a dog" and rows[0].pair.provenance["seed"] == "111"
    assert "0000001/222_1.jpg' not found" in rows[1].reason
    assert (rows[2].count, rows[2].reason) == (
        3,
        "seeds.json: '0000002/prompt.json' can't be read: No such file or directory",
    )
    assert "expected [folder, [seed, ..]], found '0000003'" in rows[3].reason and rows[3].number == 6
    assert read(tmp_path / "seeds.json", "instructpix2pix", category="semantic")[0].pair == rows[0].pair


def test_omnidiff_may_have_several_captions_of_a_pair(tmp_path):
    row = {"before": picture(), "after": picture(TARGET), "captions": ["The cup is gone.", "A cup was taken away."]}
    parquet(tmp_path / "o.parquet", [row, row | {"captions": []}, row | {"captions": None}])
    rows = read(tmp_path, "omnidiff", category="semantic")
    assert texts(rows) == ["The cup is gone.", None, None]
    assert rows[0].pair.provenance["other_instructions"] == ["A cup was taken away."]
    assert "licence" not in rows[0].pair.provenance
    parquet(tmp_path / "p/p.parquet", [{"left": picture(), "right": picture(), "text": "x"}])
    with pytest.raises(InputError, match="has no column .*before.*: found 'left', 'right', 'text'"):
        read(tmp_path / "p", "omnidiff", category="semantic")


def gedit(**change):
    row = {"key": "0001", "task_type": "subject-add", "instruction": "Add wings.", "instruction_language": "en",
           "input_image": picture(), "input_image_raw": picture(OTHER), "Intersection_exist": True}  # fmt: skip
    return row | change


def test_a_benchmark_without_targets_is_refused_but_for_the_answers_of_an_editor(tmp_path):
    chinese = gedit(instruction="加翅膀", instruction_language="cn")
    rows = [gedit(), chinese, gedit(key="0002"), gedit(key="../../0001"), gedit(key=None)]
    parquet(tmp_path / "gedit/train.parquet", rows)
    with pytest.raises(
        InputError, match=r"is a benchmark of editors, whose rows have no target picture.*--answers DIR"
    ):
        read(tmp_path / "gedit", "gedit-bench")
    for language in ("en", "cn"):
        put(tmp_path / f"answers/subject-add/{language}/0001.png", TARGET)
    rows = read(tmp_path / "gedit", "gedit-bench", answers=str(tmp_path / "answers"))
    assert texts(rows[:2]) == ["Add wings.", "加翅膀"] and rows[0].source == OTHER and rows[0].target == TARGET
    assert rows[0].pair.provenance["key"] == "0001" and rows[0].pair.provenance["instruction_language"] == "en"
    assert "subject-add/en/0002.png' not found" in rows[2].reason
    assert "column 'key' is '../../0001': expected a name" in rows[3].reason and "column 'key' is" in rows[4].reason
    english = read(tmp_path / "gedit", "gedit-bench", answers=str(tmp_path / "answers"), language="en")
    assert "no instruction is in the language 'en'" in english[1].reason


def test_unicbench_is_lines_with_both_languages_and_takes_the_answers_to_one(tmp_path):
    row = {"key": "k", "task": "Reasoning Editing", "subtask": "Spatial Reasoning Edits", "cn": "把猫移到左边。",
           "en": "Move the cat to the left.", "image_path": "images/k.png", "resolution": [9, 7]}  # fmt: skip
    lines(tmp_path / "test_data.jsonl", [row])
    put(tmp_path / "images/k.png", SOURCE)
    put(tmp_path / "a/Spatial Reasoning Edits/en/k.png", TARGET)
    put(tmp_path / "a/Spatial Reasoning Edits/cn/k.png", OTHER)
    file = tmp_path / "test_data.jsonl"
    (english,) = read(file, "unicbench", answers=str(tmp_path / "a"))
    (chinese,) = read(file, "unicbench", answers=str(tmp_path / "a"), language="zh")
    assert (english.pair.instruction, english.target) == (row["en"], TARGET)
    assert (chinese.pair.instruction, chinese.target) == (row["cn"], OTHER)
    assert english.pair.category == "structural" and english.pair.provenance["resolution"] == [9, 7]


def test_duplicate_ids_of_a_set_are_told_and_the_first_stays(tmp_path):
    row = {"before": picture(), "after": picture(TARGET), "text": "Add a hat.", "id": 7}
    parquet(tmp_path / "t.parquet", [row, row | {"text": "Add a coat."}, row | {"id": None}])
    places = {"source": "before", "target": "after", "instruction": "text", "id": "id"}
    rows = read(tmp_path, "table", columns=places, category="semantic")
    report = ingest(rows, tmp_path / "out")
    listed = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert report.accepted == 1 and open_shards(tmp_path / "out").ids == ["7"]
    assert listed[0]["reason"].startswith("id '7' is already in the set")
    assert listed[1]["reason"] == "column 'id', which holds the ids, is empty"
