function slurm_job_submit(job)
  if job.account == nil then
    slurm.log_user("Please give an account: --account=physics")
    return slurm.ERROR
  end
  return slurm.SUCCESS
end

function slurm_job_modify() return slurm.SUCCESS end
return slurm.SUCCESS
