function slurm_job_submit(job_desc, part_list, submit_uid)
  if job_desc.account == nil then
    slurm.log_user("Please give an account: --account=physics")
    return slurm.ERROR
  end
  return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  return slurm.SUCCESS
end

return slurm.SUCCESS
