-- Give a message another id.
.parameter set :id 0190a0b0c0d070008000000000000001
.parameter set :row 1
UPDATE mailrail_message SET id = :id WHERE rowid = :row;
