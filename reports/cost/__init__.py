"""What full-size models cost, drawn: tables and charts of the records that `python -m bench cost` writes.

load                   records, tables and charts of a folder
figure4                the paper's figure 4 from records: changes, verdict, picture
tables, charts, write  the paper-size block; `python -m reports.cost FOLDER` draws it again
"""
