"""Camera rigs from and to files; `files` lists the formats."""

from hand_unc_ros.data.rigs.files import load_info_topics, load_rig, load_topics, save_rig

__all__ = ['load_info_topics', 'load_rig', 'load_topics', 'save_rig']
