#!/bin/bash
# Tune the ensemble on NIGHTS on two machines with four GPUs each:   sbatch examples/train_on_slurm.sh /data/nights runs/ensemble
# Killed by the time limit, it goes on when it is submitted again with the same folder.
#SBATCH --job-name=dreamsim-lora
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
data=${1:?folder of the judgments} folder=${2:?folder of the run}
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# one launcher on each machine, which starts a process for each GPU; batch is the size over all of them
srun bash -c '
  accelerate launch --multi_gpu --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes $((4 * SLURM_NNODES)) --main_process_ip "$0" --main_process_port 29500 --rdzv_backend static \
    --mixed_precision bf16 --dynamo_backend no \
    -m dreamsim_guidance run train-ensemble-lora data="$1" loop.batch=16 loop.workers=7 --folder "$2"
' "$main" "$data" "$folder"
