"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlecv.models.backbones import Backbone
from paddlecv.models.cifar_resnet import CifarResNet
from paddlecv.models.deeplabv3p import DeepLabV3Plus
from paddlecv.models.dpn import DPN
from paddlecv.models.faster_rcnn import FasterRCNN
from paddlecv.models.icnet import ICNet
from paddlecv.models.inception_v4 import InceptionV4
from paddlecv.models.lenet import LeNet
from paddlecv.models.mask_rcnn import MaskRCNN
from paddlecv.models.mobilenet_v1 import MobileNetV1
from paddlecv.models.resnet_vd import ResNetVd
from paddlecv.models.retinanet import RetinaNet
from paddlecv.models.se_resnext import SEResNeXt
from paddlecv.models.ssd import SSD300
from paddlecv.models.ssdlite import SSDlite
from paddlecv.models.xception import Xception65
from paddlecv.models.yolov3 import YOLOv3

__all__ = [
    "DPN",
    "SSD300",
    "Backbone",
    "CifarResNet",
    "DeepLabV3Plus",
    "FasterRCNN",
    "ICNet",
    "InceptionV4",
    "LeNet",
    "MaskRCNN",
    "MobileNetV1",
    "ResNetVd",
    "RetinaNet",
    "SEResNeXt",
    "SSDlite",
    "Xception65",
    "YOLOv3",
]
