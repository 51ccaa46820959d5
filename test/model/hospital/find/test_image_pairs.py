from pathlib import Path

import pytest
import SimpleITK as sitk

from model.hospital.find.entry import NO_PET
from model.hospital.find.image_pairs import find_images
from model.study.integrity import data_file


def found(root: Path, *names: str):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return find_images([root / name for name in names], root)


LAYOUTS = {
    "grand-challenge": ("x/images/pet/7f3a.mha", "x/images/ct/91bc.mha", None),
    "autopet": ("P1/s1/SUV.nii.gz", "P1/s1/CTres.nii.gz", "P1/s1/SEG.nii.gz"),
    "nnunet": ("imagesTr/fdg_a_0001.nii.gz", "imagesTr/fdg_a_0000.nii.gz", "labelsTr/fdg_a.nii.gz"),
    "phantoms": ("images/pet/A07_pet.mha", "images/ct/A07_ct.mha", "truth/A07_ct.mha"),
    "flat": ("case1-pet.nrrd", "case1-ct.nrrd", "case1-truth.nrrd"),
    "folders": ("1/pet/1.nii", "1/ct/1.nii", None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pair_is_found_with_its_truth(layout: str, tmp_path) -> None:
    names = LAYOUTS[layout]
    result = found(tmp_path, *filter(None, names))
    (entry,) = result.entries
    assert entry.pet == (tmp_path / names[0],) and entry.ct == (tmp_path / names[1],)
    assert entry.truth == (tmp_path / names[2] if names[2] else None) and result.unusable == ()


def test_pairs_in_one_folder_are_separated_by_their_names(tmp_path) -> None:
    result = found(tmp_path, "a_pet.mha", "a_ct.mha", "b_ct.mha", "b_pet.mha")
    names = [(entry.pet[0].name, entry.ct[0].name) for entry in result.entries]
    assert names == [("a_pet.mha", "a_ct.mha"), ("b_pet.mha", "b_ct.mha")]
    assert len({entry.identity for entry in result.entries}) == 2


def test_suv_is_taken_before_pet_and_ctres_before_ct_and_listed_as_picks(tmp_path) -> None:
    (entry,) = found(tmp_path, "s/PET.nii.gz", "s/SUV.nii.gz", "s/CT.nii.gz", "s/CTres.nii.gz").entries
    assert entry.pet[0].name == "SUV.nii.gz" and entry.ct[0].name == "CTres.nii.gz"
    assert [pick[:9] for pick in entry.picks] == ["PET: took", "CT: took "]


def test_a_missing_and_a_doubled_image_cannot_be_scored(tmp_path) -> None:
    result = found(tmp_path, "one/a_pet.mha", "two/b_ct.mha", "three/c_pet.mha", "three/c_pet.nii.gz", "three/c_ct.mha")
    assert result.entries == ()
    messages = " ".join(item.message for item in result.unusable)
    assert "a_pet.mha' has no CT beside it" in messages and "b_ct.mha' has no PET beside it" in messages
    assert "2 files could be the PET of one study" in messages
    assert [item.stage for item in result.unusable if "b_ct.mha" in item.message] == [NO_PET]


def test_files_without_a_word_for_a_role_are_ignored(tmp_path) -> None:
    result = found(tmp_path, "atlas.nii.gz", "s/x_pet.mha", "s/x_ct.mha")
    assert len(result.entries) == 1 and result.ignored == 1


@pytest.mark.parametrize("ending", [".mhd", ".nrrd"])
def test_voxels_beside_a_header_belong_to_the_study(ending: str, tmp_path) -> None:
    for name in ("pet", "ct"):
        sitk.WriteImage(sitk.Image(2, 3, 4, sitk.sitkFloat32), str(tmp_path / f"{name}{ending}"))
    if ending == ".nrrd":
        (tmp_path / "pet.nrrd").write_bytes(
            b"NRRD0004\ntype: float\ndimension: 3\nsizes: 2 3 4\nencoding: raw\ndata file: voxels.raw\n\n"
        )
        (tmp_path / "voxels.raw").write_bytes(bytes(96))
    [entry] = find_images([tmp_path / f"pet{ending}", tmp_path / f"ct{ending}"], tmp_path).entries
    beside = {"pet.raw", "ct.raw"} if ending == ".mhd" else {"voxels.raw"}
    assert {path.name for path in entry.files} == {f"pet{ending}", f"ct{ending}"} | beside


def test_a_header_of_a_missing_data_file_has_none_until_it_is_read(tmp_path) -> None:
    (tmp_path / "pet.mhd").write_text("NDims = 3\nElementDataFile = gone.raw\n")
    assert data_file(tmp_path / "pet.mhd") is None and data_file(tmp_path / "absent.mhd") is None
