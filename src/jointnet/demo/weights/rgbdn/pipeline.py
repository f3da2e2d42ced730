"""For DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER + "/pipeline.py", trust_remote_code=True)."""

from jointnet.pipelines.joint_net import JointNetPipeline

__all__ = ["JointNetPipeline"]
