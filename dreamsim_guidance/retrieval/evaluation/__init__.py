"""How well metrics find what they should: mean average precision and recall on tasks with known answers."""

from dreamsim_guidance.retrieval.evaluation.coco import coco_tasks
from dreamsim_guidance.retrieval.evaluation.evaluating import RetrievalReport, TaskReport, evaluate_retrieval
from dreamsim_guidance.retrieval.evaluation.judged_sets import materials_task, rocks_task, shoes_task
from dreamsim_guidance.retrieval.evaluation.known_pairs import crop_task, scene_tasks
from dreamsim_guidance.retrieval.evaluation.labelled import imagenet_r_task, labelled_folder_task, labelled_table_task
from dreamsim_guidance.retrieval.evaluation.ranking import chance, measure_names, ranking_scores
from dreamsim_guidance.retrieval.evaluation.tables import retrieval_markdown, retrieval_text
from dreamsim_guidance.retrieval.evaluation.task import RetrievalTask

__all__ = [
    "RetrievalReport",
    "RetrievalTask",
    "TaskReport",
    "chance",
    "coco_tasks",
    "crop_task",
    "evaluate_retrieval",
    "imagenet_r_task",
    "labelled_folder_task",
    "labelled_table_task",
    "materials_task",
    "measure_names",
    "ranking_scores",
    "retrieval_markdown",
    "retrieval_text",
    "rocks_task",
    "scene_tasks",
    "shoes_task",
]
