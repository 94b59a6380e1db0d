"""The volume that is chosen when the module is opened."""

from SAMAutoSegScene.DefaultVolume import defaultVolume


def test_without_a_gray_volume_none_is_chosen(scene):
    assert defaultVolume(scene.mrml) is None
    scene.add("vtkMRMLLabelMapVolumeNode")
    scene.add("vtkMRMLVectorVolumeNode")
    assert defaultVolume(scene.mrml) is None


def test_the_volume_in_the_views_comes_before_the_first(scene, plain_grid):
    scene.add("vtkMRMLLabelMapVolumeNode")
    first, second = scene.volume(plain_grid), scene.volume(plain_grid)
    assert defaultVolume(scene.mrml) is first
    view = scene.add("vtkMRMLSliceCompositeNode")
    assert defaultVolume(scene.mrml) is first
    view.SetBackgroundVolumeID(second.GetID())
    assert defaultVolume(scene.mrml) is second


def test_a_label_map_in_the_views_is_not_chosen(scene, plain_grid):
    gray, labels = scene.volume(plain_grid), scene.add("vtkMRMLLabelMapVolumeNode")
    scene.add("vtkMRMLSliceCompositeNode").SetBackgroundVolumeID(labels.GetID())
    assert defaultVolume(scene.mrml) is gray
