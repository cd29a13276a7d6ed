"""What a training takes, before it begins: memory of a device and time of a step. One formula for each kind of model;
that of image networks is measured on two images, since their shapes are timm's.
"""
