"""Public sets, with their columns as their authors publish them: one entry each.

An edit type says the category (taxonomy.yaml) unless --category does. Ids are row numbers where those of the set are
not unique. Other columns are kept in the provenance of each pair. `docs/data.md` has a line for each."""

from editcaption_mega.data.importers.table_columns import Columns
from editcaption_mega.data.importers.turns import INSTRUCTION, SOURCE, TARGET, Chain, Rounds

_PICO_LICENSE = "CC-BY-NC-ND-4.0"
_PICO_MEND = "the set has addresses of its sources; its map_openimage_url_to_local.py adds local_input_image"

SETS = (
    Columns(
        "anyedit", "image_file", "edited_file", ("edit_instruction",), "edit_type", license="CC-BY-4.0",
        keep_others=True, by_edit_type=True,
    ),
    # Parquet, or the folders that it was published as (seeds.json).
    Columns(
        "instructpix2pix", "original_image|image_0", "edited_image|image_1", ("edit_prompt|edit",), keep_others=True,
    ),
    # BleachNick/UltraEdit_500k. mask_image and edit_object are null but for edits of a region; no edit types.
    Columns("ultraedit", "source_image", "edited_image", ("edit_prompt",), license="CC-BY-4.0", keep_others=True),
    # sysuyy/ImgEdit: paths in lists, with --images where the tars are extracted; edits by a second picture
    # are no pairs.
    # The name of each parquet file says the edit type. The license could not be confirmed.
    Columns(
        "imgedit", "input_images", "output_images", ("prompt",), keep_others=True, by_edit_type=True,
        type_in_file=r"(.+?)(?:_part\d+)?\.parquet",
    ),
    Columns(
        "imgedit-multi-turn", SOURCE, TARGET, (INSTRUCTION,), keep_others=True,
        turns=Rounds("data", "input_images", "output_images", "prompt"),
    ),
    # apple/pico-banana-400k: sft.jsonl (sft_with_local_source_image_path.jsonl), multi_turn.jsonl; --images for the
    # edited pictures. The edit types are sentences. preference.jsonl holds two pictures for one text: no pairs of ours.
    Columns(
        "pico-banana", "local_input_image", "output_image", ("text", "summarized_text"), "edit_type",
        license=_PICO_LICENSE, keep_others=True, by_edit_type=True, mend=_PICO_MEND,
    ),
    Columns(
        "pico-banana-multi-turn", SOURCE, TARGET, (INSTRUCTION,), license=_PICO_LICENSE, keep_others=True,
        mend=_PICO_MEND, turns=Chain(
            "local_input_image", "files[id=edit_turn{n}].url", "metadata_edit_turn_prompts[{i}]",
            last="files[id=final_image].url",
        ),
    ),
    # UCSC-VLAA/GPT-Image-Edit-1.5M: SET/TASK/metadata/*.json, whose paths begin at SET/TASK. HQ-Edit's tasks and
    # UltraEdit's "others" are no edit types.
    Columns(
        "gpt-image-edit", "input", "output", ("instruction",), "task", license="CC-BY-4.0", keep_others=True,
        by_edit_type=True, pictures="..",
    ),
    # iitolstykh/NHR-Edit: parquet with pictures, or metadata.jsonl with paths. `category` may name several edits.
    Columns(
        "nhr-edit", "source_image|source_file_name", "edited_image|edited_file_name",
        ("edit_instruction", "augmented_instructions"), "category", license="Apache-2.0", keep_others=True,
        by_edit_type=True,
    ),
    # InternVL-U/ScaleEdit-12M: pictures are bytes, ids int64 and counted anew in each task. Its card says MIT, others
    # quote CC-BY-NC-SA-4.0: --license settles it.
    Columns(
        "scaleedit", "source_image", "edited_image", ("edit_instruction",), "edit_task", license="MIT",
        keep_others=True, by_edit_type=True,
    ),
    # xiaotanhua/UnicEdit-10M: 5,181 keys are there twice, with other edits.
    Columns(
        "unicedit", "src_image", "edit_image", ("prompt_en", "prompt_cn"), "edit_subtask", license="Apache-2.0",
        keep_others=True, by_edit_type=True,
    ),
    # OPPOer/X2Edit-Dataset: WebDataset tars, some of them joined, so keys come again. The text may be in Chinese.
    Columns(
        "x2edit", "1.0.jpg", "2.jpg", ("json.instruction", "json.instruction_en", "json.instruction_zh"), "json.task",
        license="Apache-2.0", keep_others=True, by_edit_type=True,
    ),
    # AILab-CVC/SEED-Data-Edit, parts 1 and 2 (JSONL with paths). Of its columns only `source_image` and `instruction`
    # could be confirmed, of part 3 all.
    Columns(
        "seed-data-edit", "source_image", "target_image", ("instruction",), license="CC-BY-NC-4.0", keep_others=True,
    ),
    Columns(
        "seed-data-edit-multi-turn", SOURCE, TARGET, (INSTRUCTION,), license="CC-BY-NC-4.0", keep_others=True,
        turns=Chain("source_image", "edit_image_{n}", "instruction_{n}"),
    ),
    # OmniDiff (arXiv 2503.11093): neither its files nor its license could be found published. These are the
    # columns that captions of differences have elsewhere; --format table takes any others.
    Columns(
        "omnidiff", "before|image1|img1", "after|image2|img2", ("captions|caption|sentences",), keep_others=True,
    ),
    # Benchmarks of editors: they have no targets, which are what an editor answered (--answers).
    Columns(
        "gedit-bench", "input_image_raw|input_image", TARGET, ("instruction",), "task_type", keep_others=True,
        by_edit_type=True, answer="{task_type}/{instruction_language}/{key}.png", provenance=("key",),
    ),
    Columns(
        "unicbench", "image_path", TARGET, ("en", "cn"), "subtask", license="Apache-2.0", keep_others=True,
        by_edit_type=True, answer="{subtask}/{language}/{key}.png", provenance=("key",),
    ),
)  # fmt: skip
